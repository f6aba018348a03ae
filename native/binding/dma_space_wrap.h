#pragma once
#include <napi.h>

#include <memory>

#include "../engines/iommu_requests.h"
#include "../memory/dma_space.h"

namespace vmm {

/// `class IoDomains` of src/native-iommu.ts. JS thread only.
class IoDomainsWrap : public Napi::ObjectWrap<IoDomainsWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit IoDomainsWrap(const Napi::CallbackInfo& info);

  /// The same in the core; requests find there what was put.
  const std::shared_ptr<IoDomains>& core() const { return core_; }
  const std::shared_ptr<IommuRequests>& requests() const { return requests_; }

 private:
  Napi::Value Put(const Napi::CallbackInfo& info);
  Napi::Value Remove(const Napi::CallbackInfo& info);

  std::shared_ptr<IoDomains> core_;
  std::shared_ptr<IommuRequests> requests_;
};

/// `class IoDomain` of src/native-iommu.ts. JS thread only.
class IoDomainWrap : public Napi::ObjectWrap<IoDomainWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit IoDomainWrap(const Napi::CallbackInfo& info);

  const std::shared_ptr<IoDomain>& core() const { return core_; }

 private:
  Napi::Value Map(const Napi::CallbackInfo& info);
  Napi::Value Unmap(const Napi::CallbackInfo& info);
  Napi::Value Mappings(const Napi::CallbackInfo& info);

  std::shared_ptr<IoDomain> core_;
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
