#include "rate_limiter_wrap.h"

#include "args.h"

namespace vmm {
namespace {

TokenBucketOptions ToBucket(Napi::Value value, const char* name) {
  if (value.IsUndefined()) return {};
  const Napi::Object from = ToObject(value, name);
  return {ToU64(from.Get("size"), "size"), ToU64(from.Get("refillTimeMs"), "refillTimeMs"),
          ToU64(from.Get("oneTimeBurst"), "oneTimeBurst")};
}

}  // namespace

RateLimiterWrap::RateLimiterWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const Napi::Object options = ToObject(info[0], "options");
  core_ = std::make_shared<RateLimiter>(ToBucket(options.Get("bandwidth"), "bandwidth"),
                                        ToBucket(options.Get("ops"), "ops"));
}

std::shared_ptr<RateLimiter> RateLimiterWrap::CoreOf(Napi::Value value, const char* name) {
  return value.IsUndefined() ? nullptr : Unwrap(ToObject(value, name))->core_;
}

}  // namespace vmm
