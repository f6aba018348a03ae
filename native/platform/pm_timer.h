#pragma once
#include <time.h>

#include "../kvm/exit_bus.h"

namespace vmm {

/// The ACPI PM timer: a free-running 32-bit counter at 3.579545 MHz. ACPI 6.5 §4.8.2.1.
class PmTimer : public NativeDevice {
 public:
  uint32_t Read(uint32_t offset, uint8_t /*size_bytes*/) override {
    return static_cast<uint32_t>(Ticks() >> (8 * offset));
  }
  void Write(uint32_t, uint8_t, uint32_t) override {}

 private:
  static uint32_t Ticks() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    const uint64_t sub_second = static_cast<uint64_t>(t.tv_nsec) * 3'579'545 / 1'000'000'000;
    return static_cast<uint32_t>(static_cast<uint64_t>(t.tv_sec) * 3'579'545 + sub_second);
  }
};

}  // namespace vmm
