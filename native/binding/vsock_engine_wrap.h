#pragma once
#include <napi.h>

#include <memory>

#include "../engines/vsock.h"

namespace vmm {

/// `class VsockEngine` of src/native-vsock.ts. JS thread only.
class VsockEngineWrap : public Napi::ObjectWrap<VsockEngineWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit VsockEngineWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value Start(const Napi::CallbackInfo& info);
  Napi::Value Pause(const Napi::CallbackInfo& info);
  Napi::Value Resume(const Napi::CallbackInfo& info);
  Napi::Value Stop(const Napi::CallbackInfo& info);

  const std::shared_ptr<Napi::FunctionReference> on_warning_;
  std::unique_ptr<VsockEngine> core_;
};

}  // namespace vmm
