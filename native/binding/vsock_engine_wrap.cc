#include "vsock_engine_wrap.h"

#include <utility>

#include "args.h"
#include "sys_error.h"

namespace vmm {
namespace {

VsockOptions ToOptions(Napi::Object from) {
  VsockOptions options;
  options.id = from.Get("id").ToString().Utf8Value();
  options.cid = ToUint<uint32_t>(from.Get("cid"), "cid");
  options.listener = ToFd(from.Get("listener"), "listener");
  options.socket_path = from.Get("socketPath").ToString().Utf8Value();
  options.greeting_timeout_ms =
      ToUint<uint32_t>(from.Get("greetingTimeoutMs"), "greetingTimeoutMs");
  return options;
}

EngineQueue TakeQueue(const Napi::CallbackInfo& info, size_t index, const char* name) {
  return VirtqueueWrap::Unwrap(ToObject(info[index], name))->TakeQueue(info.Env());
}

}  // namespace

Napi::Function VsockEngineWrap::Define(Napi::Env env) {
  return DefineEngine(env, "VsockEngine", {InstanceMethod<&VsockEngineWrap::Start>("start")});
}

VsockEngineWrap::VsockEngineWrap(const Napi::CallbackInfo& info) : EngineWrap(info) {
  const Napi::Object from = ToObject(info[0], "options");
  VsockOptions options = ToOptions(from);
  options.on_warning = Caller(from, "onWarning");
  core_ = std::make_unique<VsockEngine>(std::move(options));
}

Napi::Value VsockEngineWrap::Start(const Napi::CallbackInfo& info) {
  EngineQueue rx = TakeQueue(info, 0, "rx");
  EngineQueue tx = TakeQueue(info, 1, "tx");
  ThrowIfFailed(info.Env(), core_->Start(std::move(rx), std::move(tx)), "VsockEngine");
  return info.Env().Undefined();
}

}  // namespace vmm
