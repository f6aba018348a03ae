#include "block_engine_wrap.h"

#include <utility>

#include "args.h"
#include "block_counters_wrap.h"
#include "disk_image_wrap.h"
#include "engine_calls.h"
#include "js_queue.h"
#include "rate_limiter_wrap.h"
#include "sys_error.h"

namespace vmm {
namespace {

IoKind ToIoKind(Napi::Value value) {
  const std::string name = value.ToString().Utf8Value();
  if (name == "io_uring") return IoKind::kIoUring;
  return name == "aio" ? IoKind::kAio : IoKind::kSync;
}

std::vector<std::vector<uint32_t>> ToHostCpus(Napi::Value value) {
  const Napi::Array queues = ToArray(value, "hostCpus");
  std::vector<std::vector<uint32_t>> out(queues.Length());
  for (uint32_t i = 0; i < queues.Length(); ++i) {
    const Napi::Array cpus = ToArray(queues.Get(i), "hostCpus");
    for (uint32_t j = 0; j < cpus.Length(); ++j)
      out[i].push_back(ToUint<uint32_t>(cpus.Get(j), "hostCpus"));
  }
  return out;
}

BlockOptions ToOptions(Napi::Object from) {
  const auto flag = [&](const char* name) { return from.Get(name).ToBoolean().Value(); };
  BlockOptions options;
  options.id = from.Get("id").ToString().Utf8Value();
  options.image = DiskImageWrap::Unwrap(ToObject(from.Get("image"), "image"))->core();
  options.readonly = flag("readonly");
  options.writeback = flag("writeback");
  options.discard = flag("discard");
  options.keep_raw = flag("keepRaw");
  options.serial = from.Get("serial").ToString().Utf8Value();
  options.io = ToIoKind(from.Get("io"));
  options.host_cpus = ToHostCpus(from.Get("hostCpus"));
  options.limiter = RateLimiterWrap::CoreOf(from.Get("limiter"), "limiter");
  options.counters = BlockCountersWrap::Unwrap(ToObject(from.Get("counters"), "counters"))->core();
  return options;
}

}  // namespace

Napi::Function BlockEngineWrap::Define(Napi::Env env) {
  return DefineClass(env, "BlockEngine",
                     {InstanceMethod<&BlockEngineWrap::Start>("start"),
                      InstanceMethod<&BlockEngineWrap::SetWriteback>("setWriteback"),
                      InstanceMethod<&BlockEngineWrap::Pause>("pause"),
                      InstanceMethod<&BlockEngineWrap::Resume>("resume"),
                      InstanceMethod<&BlockEngineWrap::Stop>("stop")});
}

BlockEngineWrap::BlockEngineWrap(const Napi::CallbackInfo& info)
    : ObjectWrap(info),
      on_error_(std::make_shared<Napi::FunctionReference>(
          Napi::Persistent(ToFunction(ToObject(info[0], "options").Get("onError"), "onError")))) {
  BlockOptions options = ToOptions(info[0].As<Napi::Object>());
  // A FunctionReference must end on the JS thread, so the threads that call have a weak one only.
  options.on_error = [calls = JsQueue::Of(info.Env()).calls(),
                      weak = std::weak_ptr(on_error_)](const std::string& message) {
    calls->Post([weak, message](Napi::Env js) {
      if (const auto callback = weak.lock()) callback->Call({Napi::String::New(js, message)});
    });
  };
  core_ = std::make_unique<BlockEngine>(options);
}

Napi::Value BlockEngineWrap::Start(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(), core_->Start(TakeQueues(info[0])), "pthread_create");
  return info.Env().Undefined();
}

Napi::Value BlockEngineWrap::SetWriteback(const Napi::CallbackInfo& info) {
  core_->SetWriteback(info[0].ToBoolean().Value());
  return info.Env().Undefined();
}

Napi::Value BlockEngineWrap::Pause(const Napi::CallbackInfo& info) {
  auto [promise, settle] = Settled(info.Env(), [] {});
  core_->Pause(settle);
  return promise;
}

Napi::Value BlockEngineWrap::Resume(const Napi::CallbackInfo& info) {
  core_->Resume();
  return info.Env().Undefined();
}

/// Threads are joined once each has made its last call, so that takes no time. Until then this is
/// not collected: the destructor would wait for what is in flight.
Napi::Value BlockEngineWrap::Stop(const Napi::CallbackInfo& info) {
  auto [promise, settle] = Settled(info.Env(), [this] {
    core_->Join();
    Unref();
  });
  Ref();
  core_->Stop(settle);
  return promise;
}

}  // namespace vmm
