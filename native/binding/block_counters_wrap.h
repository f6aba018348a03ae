#pragma once
#include <napi.h>

#include <memory>

#include "../engines/block_counters.h"

namespace vmm {

/// `class BlockCounters` of src/native.ts. JS thread only.
class BlockCountersWrap : public Napi::ObjectWrap<BlockCountersWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit BlockCountersWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {}

  const std::shared_ptr<BlockCounters>& core() const { return core_; }

 private:
  Napi::Value Read(const Napi::CallbackInfo& info);

  const std::shared_ptr<BlockCounters> core_ = std::make_shared<BlockCounters>();
};

}  // namespace vmm
