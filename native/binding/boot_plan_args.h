#pragma once
#include <linux/kvm.h>
#include <napi.h>

#include <vector>

#include "../kvm/boot_plan.h"

namespace vmm {

/// Copies a `BootPlan` of src/native.ts. Throws TypeError that names the field of a bad value.
BootPlan ToBootPlan(Napi::Value value);

/// The same of a `CpuidEntry[]`.
std::vector<kvm_cpuid_entry2> ToCpuid(Napi::Value value);

/// What KVM_GET_SUPPORTED_CPUID answers, as `CpuidEntry[]`.
Napi::Value SupportedCpuid(const Napi::CallbackInfo& info);

}  // namespace vmm
