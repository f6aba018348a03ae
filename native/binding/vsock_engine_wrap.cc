#include "vsock_engine_wrap.h"

#include <utility>

#include "args.h"
#include "engine_calls.h"
#include "js_queue.h"
#include "sys_error.h"
#include "virtqueue_wrap.h"

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
  return DefineClass(env, "VsockEngine",
                     {InstanceMethod<&VsockEngineWrap::Start>("start"),
                      InstanceMethod<&VsockEngineWrap::Pause>("pause"),
                      InstanceMethod<&VsockEngineWrap::Resume>("resume"),
                      InstanceMethod<&VsockEngineWrap::Stop>("stop")});
}

VsockEngineWrap::VsockEngineWrap(const Napi::CallbackInfo& info)
    : ObjectWrap(info),
      on_warning_(std::make_shared<Napi::FunctionReference>(Napi::Persistent(
          ToFunction(ToObject(info[0], "options").Get("onWarning"), "onWarning")))) {
  VsockOptions options = ToOptions(info[0].As<Napi::Object>());
  // A FunctionReference must end on the JS thread, so the thread that calls has a weak one only.
  options.on_warning = [calls = JsQueue::Of(info.Env()).calls(),
                        weak = std::weak_ptr(on_warning_)](const std::string& message) {
    calls->Post([weak, message](Napi::Env js) {
      if (const auto callback = weak.lock()) callback->Call({Napi::String::New(js, message)});
    });
  };
  core_ = std::make_unique<VsockEngine>(std::move(options));
}

Napi::Value VsockEngineWrap::Start(const Napi::CallbackInfo& info) {
  EngineQueue rx = TakeQueue(info, 0, "rx");
  EngineQueue tx = TakeQueue(info, 1, "tx");
  ThrowIfFailed(info.Env(), core_->Start(std::move(rx), std::move(tx)), "VsockEngine");
  return info.Env().Undefined();
}

Napi::Value VsockEngineWrap::Pause(const Napi::CallbackInfo& info) {
  auto [promise, settle] = Settled(info.Env(), [] {});
  core_->Pause(settle);
  return promise;
}

Napi::Value VsockEngineWrap::Resume(const Napi::CallbackInfo& info) {
  core_->Resume();
  return info.Env().Undefined();
}

/// As BlockEngineWrap::Stop: not collected until the thread has made its last call.
Napi::Value VsockEngineWrap::Stop(const Napi::CallbackInfo& info) {
  auto [promise, settle] = Settled(info.Env(), [this] {
    core_->Join();
    Unref();
  });
  Ref();
  core_->Stop(settle);
  return promise;
}

}  // namespace vmm
