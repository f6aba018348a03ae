#include "block_counters_wrap.h"

#include <string>

namespace vmm {
namespace {

void SetTotals(Napi::Object* out, const std::string& kind, const OpTotals& totals) {
  const auto set = [&](const char* name, auto value) {
    out->Set(kind + name, Napi::Number::New(out->Env(), static_cast<double>(value)));
  };
  const bool any = totals.ops > 0;
  const int64_t ops = any ? static_cast<int64_t>(totals.ops) : 1;
  constexpr int64_t kNsPerUs = 1000;
  set("_bytes", totals.bytes);
  set("_ops", totals.ops);
  set("_latency_min", any ? totals.latency_min_ns / kNsPerUs : 0);
  set("_latency_max", totals.latency_max_ns / kNsPerUs);
  set("_latency_avg", totals.latency_sum_ns / ops / kNsPerUs);
}

}  // namespace

Napi::Function BlockCountersWrap::Define(Napi::Env env) {
  return DefineClass(env, "BlockCounters", {InstanceMethod<&BlockCountersWrap::Read>("read")});
}

Napi::Value BlockCountersWrap::Read(const Napi::CallbackInfo& info) {
  Napi::Object out = Napi::Object::New(info.Env());
  SetTotals(&out, "read", core_->Reads());
  SetTotals(&out, "write", core_->Writes());
  return out;
}

}  // namespace vmm
