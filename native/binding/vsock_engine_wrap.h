#pragma once
#include <napi.h>

#include "../engines/vsock.h"
#include "engine_wrap.h"

namespace vmm {

/// `class VsockEngine` of src/native-vsock.ts. JS thread only.
class VsockEngineWrap : public EngineWrap<VsockEngineWrap, VsockEngine> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit VsockEngineWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value Start(const Napi::CallbackInfo& info);
};

}  // namespace vmm
