#pragma once
#include <napi.h>

#include <cstdint>
#include <memory>

#include "../kvm/msi.h"

namespace vmm {

/// `class Msi` of src/native.ts, made by `Vm.msi`. Does nothing once the Vm has gone.
class MsiWrap : public Napi::ObjectWrap<MsiWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit MsiWrap(const Napi::CallbackInfo& info);
  ~MsiWrap() override {
    if (const auto routes = msi_.routes.lock()) routes->Remove(msi_.gsi);
  }

  /// What `Vm.msi` makes one of.
  struct Added {
    std::weak_ptr<MsiRoutes> routes;
    uint32_t gsi;
  };

 private:
  Napi::Value Route(const Napi::CallbackInfo& info);
  Napi::Value Mask(const Napi::CallbackInfo& info);
  Napi::Value JsClose(const Napi::CallbackInfo& info);

  Added msi_{};
};

}  // namespace vmm
