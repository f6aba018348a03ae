#pragma once
#include <memory>
#include <utility>

#include "../kvm/exit_bus.h"
#include "byte_sink.h"

namespace vmm {

/// One port that prints: a byte written goes to `output`. A read gives what guests look for before
/// they print, as Bochs and QEMU answer it.
class DebugPort : public NativeDevice {
 public:
  explicit DebugPort(std::shared_ptr<ByteSink> output) : output_(std::move(output)) {}

  uint32_t Read(uint32_t, uint8_t) override { return 0xe9; }
  void Write(uint32_t, uint8_t, uint32_t value) override {
    const auto byte = static_cast<uint8_t>(value);
    output_->Put(&byte, 1);
  }

 private:
  const std::shared_ptr<ByteSink> output_;
};

}  // namespace vmm
