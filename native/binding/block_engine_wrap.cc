#include "block_engine_wrap.h"

#include <utility>

#include "args.h"
#include "block_counters_wrap.h"
#include "disk_image_wrap.h"
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
  return DefineEngine(env, "BlockEngine",
                      {InstanceMethod<&BlockEngineWrap::Start>("start"),
                       InstanceMethod<&BlockEngineWrap::SetWriteback>("setWriteback")});
}

BlockEngineWrap::BlockEngineWrap(const Napi::CallbackInfo& info) : EngineWrap(info) {
  const Napi::Object from = ToObject(info[0], "options");
  BlockOptions options = ToOptions(from);
  options.on_error = Caller(from, "onError");
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

}  // namespace vmm
