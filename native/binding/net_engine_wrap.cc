#include "net_engine_wrap.h"

#include <utility>

#include "args.h"
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
  return DefineEngine(env, "NetEngine",
                      {InstanceMethod<&NetEngineWrap::Start>("start"),
                       InstanceMethod<&NetEngineWrap::SetPairs>("setPairs"),
                       InstanceMethod<&NetEngineWrap::Counters>("counters")});
}

NetEngineWrap::NetEngineWrap(const Napi::CallbackInfo& info) : EngineWrap(info) {
  const Napi::Object from = ToObject(info[0], "options");
  NetOptions options = ToOptions(from);
  options.on_tap_error = Caller(from, "onTapError");
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
