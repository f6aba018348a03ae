#pragma once
#include <functional>
#include <memory>
#include <utility>

#include "../kvm/irq.h"
#include "byte_sink.h"
#include "uart16550.h"

namespace vmm {

/// A serial port wired up: the chip, its interrupt line, and where it sends.
class SerialPort : public NativeDevice {
 public:
  /// `room` as for Uart16550.
  SerialPort(Irq irq, std::shared_ptr<ByteSink> output, std::function<void()> room)
      : irq_(std::move(irq)),
        output_(std::move(output)),
        chip_({[this](uint8_t byte) { output_->Put(&byte, 1); }, [this] { irq_.Trigger(); },
               std::move(room)}) {}

  uint32_t Read(uint32_t offset, uint8_t size_bytes) override {
    return chip_.Read(offset, size_bytes);
  }
  void Write(uint32_t offset, uint8_t size_bytes, uint32_t value) override {
    chip_.Write(offset, size_bytes, value);
  }

  Uart16550& chip() { return chip_; }
  ByteSink& output() { return *output_; }

 private:
  Irq irq_;
  const std::shared_ptr<ByteSink> output_;
  Uart16550 chip_;
};

}  // namespace vmm
