#include "net_engine_wrap.h"

#include <utility>

#include "args.h"
#include "engine_calls.h"
#include "js_queue.h"
#include "rate_limiter_wrap.h"
#include "sys_error.h"

namespace vmm {
namespace {

/// More than any frame has, and little enough to set aside for one.
constexpr uint32_t kFrameBytesMax = 1 << 20;

NetOptions ToOptions(Napi::Object from) {
  NetOptions options;
  options.id = from.Get("id").ToString().Utf8Value();
  const Napi::Array taps = ToArray(from.Get("taps"), "taps");
  for (uint32_t i = 0; i < taps.Length(); ++i) options.taps.push_back(ToFd(taps.Get(i), "taps"));
  options.rx.merge = from.Get("mergeRxBuffers").ToBoolean().Value();
  options.rx.frame_bytes_max = ToUint<uint32_t>(from.Get("frameBytesMax"), "frameBytesMax");
  options.rx.limiter = RateLimiterWrap::CoreOf(from.Get("rxLimiter"), "rxLimiter");
  options.tx_limiter = RateLimiterWrap::CoreOf(from.Get("txLimiter"), "txLimiter");
  if (options.rx.frame_bytes_max > kFrameBytesMax)
    throw Napi::TypeError::New(from.Env(), "frameBytesMax is out of range");
  return options;
}

}  // namespace

Napi::Function NetEngineWrap::Define(Napi::Env env) {
  return DefineClass(env, "NetEngine",
                     {InstanceMethod<&NetEngineWrap::Start>("start"),
                      InstanceMethod<&NetEngineWrap::SetPairs>("setPairs"),
                      InstanceMethod<&NetEngineWrap::Pause>("pause"),
                      InstanceMethod<&NetEngineWrap::Resume>("resume"),
                      InstanceMethod<&NetEngineWrap::Stop>("stop"),
                      InstanceMethod<&NetEngineWrap::Counters>("counters")});
}

NetEngineWrap::NetEngineWrap(const Napi::CallbackInfo& info)
    : ObjectWrap(info),
      on_tap_error_(std::make_shared<Napi::FunctionReference>(Napi::Persistent(
          ToFunction(ToObject(info[0], "options").Get("onTapError"), "onTapError")))) {
  NetOptions options = ToOptions(info[0].As<Napi::Object>());
  // A FunctionReference must end on the JS thread, so the threads that call have a weak one only.
  options.on_tap_error = [calls = JsQueue::Of(info.Env()).calls(),
                          weak = std::weak_ptr(on_tap_error_)](const std::string& message) {
    calls->Post([weak, message](Napi::Env js) {
      if (const auto callback = weak.lock()) callback->Call({Napi::String::New(js, message)});
    });
  };
  core_ = std::make_unique<NetEngine>(options);
}

Napi::Value NetEngineWrap::Start(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(), core_->Start(TakeQueues(info[0])), "pthread_create");
  return info.Env().Undefined();
}

Napi::Value NetEngineWrap::SetPairs(const Napi::CallbackInfo& info) {
  core_->SetPairs(ToUint<uint32_t>(info[0], "count"));
  return info.Env().Undefined();
}

Napi::Value NetEngineWrap::Pause(const Napi::CallbackInfo& info) {
  auto [promise, settle] = Settled(info.Env(), [] {});
  core_->Pause(settle);
  return promise;
}

Napi::Value NetEngineWrap::Resume(const Napi::CallbackInfo& info) {
  core_->Resume();
  return info.Env().Undefined();
}

/// As BlockEngineWrap::Stop: not collected until each thread has made its last call.
Napi::Value NetEngineWrap::Stop(const Napi::CallbackInfo& info) {
  auto [promise, settle] = Settled(info.Env(), [this] {
    core_->Join();
    Unref();
  });
  Ref();
  core_->Stop(settle);
  return promise;
}

Napi::Value NetEngineWrap::Counters(const Napi::CallbackInfo& info) {
  const NetCounters counters = core_->counters();
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("rx_bytes", static_cast<double>(counters.rx_bytes));
  object.Set("tx_bytes", static_cast<double>(counters.tx_bytes));
  object.Set("rx_frames", static_cast<double>(counters.rx_frames));
  object.Set("tx_frames", static_cast<double>(counters.tx_frames));
  return object;
}

}  // namespace vmm
