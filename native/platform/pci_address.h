#pragma once
#include <atomic>
#include <cstdint>

#include "../kvm/exit_bus.h"

namespace vmm {

/// The address register of PCI's configuration mechanism: which register the four ports after it
/// stand for. PCI Local Bus 3.0 §3.2.2.3.2. Guests write it before each access, and half of their
/// exits would be to tell of that.
class PciAddress : public NativeDevice {
 public:
  /// Only four bytes at once are for the register: one of its bytes is not.
  uint32_t Read(uint32_t, uint8_t size_bytes) override {
    return size_bytes == sizeof(uint32_t) ? value_.load() : ~uint32_t{0};
  }
  void Write(uint32_t, uint8_t size_bytes, uint32_t value) override {
    if (size_bytes == sizeof(uint32_t)) value_.store(value & kWritable);
  }
  /// Any thread.
  uint32_t value() const { return value_.load(); }

 private:
  static constexpr uint32_t kWritable = 0x80fffffc;  // enable, bus, device, function, register
  std::atomic<uint32_t> value_{0};
};

}  // namespace vmm
