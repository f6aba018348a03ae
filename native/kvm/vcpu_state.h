#pragma once
#include <linux/kvm.h>

#include <vector>

#include "../base/status.h"
#include "boot_plan.h"

/// The registers of a vCPU that is not in KVM_RUN. `index` is for the Status alone.
namespace vmm {

/// KVM stops at the first that it refuses, which is an error.
Status SetMsrs(int vcpu_fd, int index, const std::vector<kvm_msr_entry>& msrs);

/// LINT0 as external interrupt and LINT1 as NMI, as firmware leaves them: a kernel without an
/// interrupt controller driver yet relies on it.
Status SetLapicInputs(int vcpu_fd, int index);

/// Where and how the boot vCPU starts.
Status SetEntry(int vcpu_fd, const EntryState& entry);

/// Makes it again what a new vCPU is, one that waits for INIT and SIPI, whatever a guest has done
/// to it. What INIT itself will do is left to it (SDM vol. 3 §10.1.1): general and debug registers.
Status ResetToPowerOn(int vcpu_fd, int index, const std::vector<kvm_msr_entry>& msrs);

}  // namespace vmm
