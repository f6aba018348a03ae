#pragma once
#include <napi.h>

#include <memory>

#include "../disk/disk_image.h"

namespace vmm {

/// `class DiskImage` of src/native.ts. JS thread only.
class DiskImageWrap : public Napi::ObjectWrap<DiskImageWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit DiskImageWrap(const Napi::CallbackInfo& info);

  const std::shared_ptr<DiskImage>& core() const { return core_; }

 private:
  Napi::Value SizeBytes(const Napi::CallbackInfo& info);
  Napi::Value SectorBytes(const Napi::CallbackInfo& info);
  Napi::Value Resize(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  std::shared_ptr<DiskImage> core_;
};

}  // namespace vmm
