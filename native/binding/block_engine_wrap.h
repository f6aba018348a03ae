#pragma once
#include <napi.h>

#include <memory>

#include "../engines/block.h"

namespace vmm {

/// `class BlockEngine` of src/native.ts. JS thread only.
class BlockEngineWrap : public Napi::ObjectWrap<BlockEngineWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit BlockEngineWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value Start(const Napi::CallbackInfo& info);
  Napi::Value SetWriteback(const Napi::CallbackInfo& info);
  Napi::Value Pause(const Napi::CallbackInfo& info);
  Napi::Value Resume(const Napi::CallbackInfo& info);
  Napi::Value Stop(const Napi::CallbackInfo& info);

  const std::shared_ptr<Napi::FunctionReference> on_error_;
  std::unique_ptr<BlockEngine> core_;
};

}  // namespace vmm
