#pragma once
#include <napi.h>

#include <memory>

#include "../memory/dma_space.h"

namespace vmm {

/// `class IoDomain` of src/native-iommu.ts. JS thread only.
class IoDomainWrap : public Napi::ObjectWrap<IoDomainWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit IoDomainWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {}

  const std::shared_ptr<IoDomain>& core() const { return core_; }

 private:
  Napi::Value Map(const Napi::CallbackInfo& info);
  Napi::Value Unmap(const Napi::CallbackInfo& info);
  Napi::Value Mappings(const Napi::CallbackInfo& info);

  const std::shared_ptr<IoDomain> core_ = std::make_shared<IoDomain>();
};

/// `class DmaSpace` of src/native-iommu.ts. JS thread only.
class DmaSpaceWrap : public Napi::ObjectWrap<DmaSpaceWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit DmaSpaceWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {}

  const std::shared_ptr<DmaSpace>& core() const { return core_; }

 private:
  Napi::Value Attach(const Napi::CallbackInfo& info);
  Napi::Value MoveOn(const Napi::CallbackInfo& info);

  const std::shared_ptr<DmaSpace> core_ = std::make_shared<DmaSpace>();
};

}  // namespace vmm
