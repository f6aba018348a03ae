#pragma once
#include <napi.h>

#include <memory>

#include "../memory/guest_memory.h"

namespace vmm {

/// `class GuestMemory` of src/native.ts.
class GuestMemoryWrap : public Napi::ObjectWrap<GuestMemoryWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit GuestMemoryWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {}

  const std::shared_ptr<GuestMemory>& core() const { return core_; }

 private:
  Napi::Value AddRegion(const Napi::CallbackInfo& info);
  Napi::Value RemoveRegion(const Napi::CallbackInfo& info);
  Napi::Value Read(const Napi::CallbackInfo& info);
  Napi::Value Write(const Napi::CallbackInfo& info);
  Napi::Value Load(const Napi::CallbackInfo& info);
  Napi::Value Prefault(const Napi::CallbackInfo& info);
  Napi::Value Discard(const Napi::CallbackInfo& info);
  Napi::Value Regions(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  const std::shared_ptr<GuestMemory> core_ = std::make_shared<GuestMemory>();
};

}  // namespace vmm
