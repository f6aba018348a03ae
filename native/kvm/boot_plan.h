#pragma once
#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vmm {

/// What lies in RAM before the first instruction: `bytes`, or where `fd` is not -1, a part of a
/// file. The descriptor is borrowed until the plan is carried out.
struct Blob {
  uint64_t gpa;
  std::vector<std::byte> bytes;
  int fd = -1;
  uint64_t offset = 0;
  uint64_t len = 0;
};

/// A segment register; `access` is bits 40 to 55 of its descriptor, without the limit's.
struct Segment {
  uint16_t selector;
  uint64_t base;
  uint32_t limit;
  uint16_t access;
};

struct TableRegister {
  uint64_t base;
  uint16_t limit;
};

/// How the boot vCPU starts.
struct EntryState {
  uint64_t rip, rsp, rbx, rsi;
  uint64_t cr0, cr3, cr4, efer;
  TableRegister gdt, idt;
  Segment code, data, task;
};

/// A whole boot as data. TypeScript computes it; here it is only carried out.
struct BootPlan {
  std::vector<Blob> blobs;
  std::vector<std::vector<kvm_cpuid_entry2>> cpuid;  // one list a vCPU
  std::vector<kvm_msr_entry> msrs;
  EntryState entry;
};

}  // namespace vmm
