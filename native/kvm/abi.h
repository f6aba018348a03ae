#pragma once
#include <linux/kvm.h>

#include <cstdint>

/// The KVM calls whose arguments end in a flexible array. Debian's headers declare that array
/// so that C++ sees a header of 12 bytes in place of 8, and with it the wrong ioctl numbers.
namespace vmm::abi {

struct CpuidHeader {
  uint32_t entries;
  uint32_t padding;
};
struct MsrsHeader {
  uint32_t entries;
  uint32_t padding;
};

struct RoutingHeader {
  uint32_t entries;
  uint32_t flags;
};

constexpr auto kGetSupportedCpuid = _IOWR(KVMIO, 0x05, CpuidHeader);
constexpr auto kSetCpuid2 = _IOW(KVMIO, 0x90, CpuidHeader);
constexpr auto kSetMsrs = _IOW(KVMIO, 0x89, MsrsHeader);
/// struct kvm_xsave, whose size does not count what may follow it.
struct Xsave {
  uint32_t region[1024];
};

constexpr auto kSetXsave = _IOW(KVMIO, 0xa5, Xsave);
constexpr auto kSetGsiRouting = _IOW(KVMIO, 0x6a, RoutingHeader);

}  // namespace vmm::abi
