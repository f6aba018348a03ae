#pragma once
#include <napi.h>

#include "../engines/block.h"
#include "engine_wrap.h"

namespace vmm {

/// `class BlockEngine` of src/native.ts. JS thread only.
class BlockEngineWrap : public EngineWrap<BlockEngineWrap, BlockEngine> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit BlockEngineWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value Start(const Napi::CallbackInfo& info);
  Napi::Value SetWriteback(const Napi::CallbackInfo& info);
};

}  // namespace vmm
