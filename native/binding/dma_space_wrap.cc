#include "dma_space_wrap.h"

#include <atomic>
#include <optional>
#include <utility>

#include "args.h"
#include "js_queue.h"

namespace vmm {
namespace {

/// A wait for the users of what is taken away. Mostly there are none, and nobody need wait: then
/// there is no promise, and the loop is not troubled.
class DrainWait {
 public:
  explicit DrainWait(Napi::Env env) : queue_(JsQueue::Of(env)) {}

  /// Whoever has it takes it along.
  std::shared_ptr<Drain> MakeDrain() {
    return std::make_shared<Drain>([state = state_, calls = queue_.calls(), &queue = queue_] {
      if (state->phase.exchange(Phase::kDrained) != Phase::kAwaited) return;
      calls->Post([&queue, state](Napi::Env js) {
        queue.Drop(js);
        state->deferred->Resolve(js.Undefined());
      });
    });
  }

  /// Undefined if all have let go already, or else a promise of that.
  Napi::Value Await(Napi::Env env) {
    if (state_->phase.load() == Phase::kDrained) return env.Undefined();
    const Napi::Promise promise = state_->deferred.emplace(env).Promise();
    if (state_->phase.exchange(Phase::kAwaited) == Phase::kDrained)
      state_->deferred->Resolve(env.Undefined());
    else
      queue_.Hold(env);
    return promise;
  }

 private:
  enum class Phase { kNew, kDrained, kAwaited };
  struct State {
    std::atomic<Phase> phase = Phase::kNew;
    std::optional<Napi::Promise::Deferred> deferred;  // set before it is awaited
  };

  JsQueue& queue_;
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace

Napi::Function IoDomainsWrap::Define(Napi::Env env) {
  return DefineClass(env, "IoDomains",
                     {InstanceMethod<&IoDomainsWrap::Put>("put"),
                      InstanceMethod<&IoDomainsWrap::Remove>("remove")});
}

IoDomainsWrap::IoDomainsWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const Napi::Object from = ToObject(info[0], "limits");
  const auto iova = [&](const char* name) { return ToAddress(from.Get(name), name); };
  const auto limits = std::make_shared<IoLimits>();
  limits->last = iova("last");
  limits->reserved_first = iova("reservedFirst");
  limits->reserved_last = iova("reservedLast");
  limits->mappings_max = ToU64(from.Get("mappingsMax"), "mappingsMax");
  core_ = std::make_shared<IoDomains>(limits);
  requests_ = std::make_shared<IommuRequests>(core_);
}

Napi::Value IoDomainsWrap::Put(const Napi::CallbackInfo& info) {
  const auto id = ToUint<uint32_t>(info[0], "id");
  core_->Put(id, IoDomainWrap::Unwrap(ToObject(info[1], "domain"))->core());
  return info.Env().Undefined();
}

Napi::Value IoDomainsWrap::Remove(const Napi::CallbackInfo& info) {
  core_->Remove(ToUint<uint32_t>(info[0], "id"));
  return info.Env().Undefined();
}

Napi::Function IoDomainWrap::Define(Napi::Env env) {
  return DefineClass(
      env, "IoDomain",
      {InstanceMethod<&IoDomainWrap::Map>("map"), InstanceMethod<&IoDomainWrap::Unmap>("unmap"),
       InstanceMethod<&IoDomainWrap::Mappings>("mappings")});
}

IoDomainWrap::IoDomainWrap(const Napi::CallbackInfo& info)
    : ObjectWrap(info),
      core_(std::make_shared<IoDomain>(
          IoDomainsWrap::Unwrap(ToObject(info[0], "domains"))->core()->limits())) {}

Napi::Value IoDomainWrap::Map(const Napi::CallbackInfo& info) {
  const IoStatus status =
      core_->Map({ToAddress(info[0], "first"), ToAddress(info[1], "last"),
                  ToAddress(info[2], "gpa"), ToUint<uint32_t>(info[3], "flags")});
  return Napi::Number::New(info.Env(), static_cast<uint8_t>(status));
}

Napi::Value IoDomainWrap::Unmap(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  DrainWait wait(env);
  const auto [status, count] =
      core_->Unmap(ToAddress(info[0], "first"), ToAddress(info[1], "last"), wait.MakeDrain());
  const Napi::Object unmapped = Napi::Object::New(env);
  unmapped.Set("status", static_cast<uint8_t>(status));
  unmapped.Set("count", static_cast<double>(count));
  unmapped.Set("inUse", wait.Await(env));
  return unmapped;
}

Napi::Value IoDomainWrap::Mappings(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Array list = Napi::Array::New(env);
  for (const IoMapping& mapping : core_->All()) {
    Napi::Object object = Napi::Object::New(env);
    object.Set("first", Napi::BigInt::New(env, mapping.first));
    object.Set("last", Napi::BigInt::New(env, mapping.last));
    object.Set("gpa", Napi::BigInt::New(env, mapping.gpa));
    object.Set("isReadable", mapping.readable);
    object.Set("isWritable", mapping.writable);
    list.Set(list.Length(), object);
  }
  return list;
}

Napi::Function DmaSpaceWrap::Define(Napi::Env env) {
  return DefineClass(env, "DmaSpace",
                     {InstanceMethod<&DmaSpaceWrap::Attach>("attach"),
                      InstanceMethod<&DmaSpaceWrap::MoveOn>("moveOn")});
}

Napi::Value DmaSpaceWrap::Attach(const Napi::CallbackInfo& info) {
  std::shared_ptr<const IoDomain> domain;
  if (!info[0].IsUndefined()) domain = IoDomainWrap::Unwrap(ToObject(info[0], "domain"))->core();
  DrainWait wait(info.Env());
  core_->Attach(std::move(domain), info[1].ToBoolean(), wait.MakeDrain());
  return wait.Await(info.Env());
}

Napi::Value DmaSpaceWrap::MoveOn(const Napi::CallbackInfo& info) {
  core_->MoveOn();
  return info.Env().Undefined();
}

}  // namespace vmm
