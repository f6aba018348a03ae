#pragma once
#include <napi.h>

#include <memory>

#include "../engines/net.h"

namespace vmm {

/// `class NetEngine` of src/native-net.ts. JS thread only.
class NetEngineWrap : public Napi::ObjectWrap<NetEngineWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit NetEngineWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value Start(const Napi::CallbackInfo& info);
  Napi::Value SetPairs(const Napi::CallbackInfo& info);
  Napi::Value Pause(const Napi::CallbackInfo& info);
  Napi::Value Resume(const Napi::CallbackInfo& info);
  Napi::Value Stop(const Napi::CallbackInfo& info);
  Napi::Value Counters(const Napi::CallbackInfo& info);

  const std::shared_ptr<Napi::FunctionReference> on_tap_error_;
  std::unique_ptr<NetEngine> core_;
};

}  // namespace vmm
