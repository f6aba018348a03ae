#pragma once
#include <napi.h>

#include "../engines/net.h"
#include "engine_wrap.h"

namespace vmm {

/// `class NetEngine` of src/native-net.ts. JS thread only.
class NetEngineWrap : public EngineWrap<NetEngineWrap, NetEngine> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit NetEngineWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value Start(const Napi::CallbackInfo& info);
  Napi::Value SetPairs(const Napi::CallbackInfo& info);
  Napi::Value Counters(const Napi::CallbackInfo& info);
};

}  // namespace vmm
