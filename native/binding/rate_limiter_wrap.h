#pragma once
#include <napi.h>

#include <memory>

#include "../engines/rate_limiter.h"

namespace vmm {

/// `class RateLimiter` of src/native.ts: what engines share. JS thread only.
class RateLimiterWrap : public Napi::ObjectWrap<RateLimiterWrap> {
 public:
  static Napi::Function Define(Napi::Env env) { return DefineClass(env, "RateLimiter", {}); }
  explicit RateLimiterWrap(const Napi::CallbackInfo& info);

  /// Null for undefined.
  static std::shared_ptr<RateLimiter> CoreOf(Napi::Value value, const char* name);

 private:
  std::shared_ptr<RateLimiter> core_;
};

}  // namespace vmm
