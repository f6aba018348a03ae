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

Napi::Function IoDomainWrap::Define(Napi::Env env) {
  return DefineClass(
      env, "IoDomain",
      {InstanceMethod<&IoDomainWrap::Map>("map"), InstanceMethod<&IoDomainWrap::Unmap>("unmap"),
       InstanceMethod<&IoDomainWrap::Mappings>("mappings")});
}

Napi::Value IoDomainWrap::Map(const Napi::CallbackInfo& info) {
  const IoMapping mapping{ToAddress(info[0], "first"), ToAddress(info[1], "last"),
                          ToAddress(info[2], "gpa"), info[3].ToBoolean(), info[4].ToBoolean()};
  if (mapping.first > mapping.last) throw Napi::TypeError::New(info.Env(), "last is before first");
  return Napi::Boolean::New(info.Env(), core_->Map(mapping));
}

Napi::Value IoDomainWrap::Unmap(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const uint64_t first = ToAddress(info[0], "first");
  const uint64_t last = ToAddress(info[1], "last");
  if (first > last) throw Napi::TypeError::New(env, "last is before first");
  DrainWait wait(env);
  const std::optional<size_t> count = core_->Unmap(first, last, wait.MakeDrain());
  if (!count.has_value()) return env.Undefined();
  const Napi::Object unmapped = Napi::Object::New(env);
  unmapped.Set("count", static_cast<double>(*count));
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
