#pragma once
#include "../kvm/exit_bus.h"

namespace vmm {

/// A port that guests write for its delay or for a debugger that is not there.
class Sink : public NativeDevice {
 public:
  uint32_t Read(uint32_t, uint8_t) override { return ~uint32_t{0}; }
  void Write(uint32_t, uint8_t, uint32_t) override {}
};

}  // namespace vmm
