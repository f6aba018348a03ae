#pragma once
#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <cstdint>

#include "../memory/guest_memory.h"

namespace vmm {

// Whose KVM's slots are from there on; those before are for RAM.
constexpr uint32_t kWindowSlots = 256;
constexpr uint32_t kBarSlots = 1024;

/// A region of 0 bytes empties the slot. 0 or a negative errno: -EEXIST if another slot is there.
inline int SetMemorySlot(int vm_fd, uint32_t slot, const Region& region) {
  const uint32_t flags = region.readonly ? KVM_MEM_READONLY : 0;
  const kvm_userspace_memory_region mapped{slot, flags, region.gpa, region.size_bytes,
                                           reinterpret_cast<uint64_t>(region.host.get())};
  return ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &mapped) < 0 ? -errno : 0;
}

}  // namespace vmm
