#pragma once
#include <functional>
#include <string>
#include <utility>

#include "../kvm/irq.h"
#include "output.h"
#include "uart16550.h"

namespace vmm {

/// A serial port wired up: the chip, its interrupt line, and the writer of what it sends.
class SerialPort : public NativeDevice {
 public:
  /// `fd` as for Output, `room` as for Uart16550.
  SerialPort(Irq irq, const std::string& thread_name, int fd, std::function<void()> room)
      : irq_(std::move(irq)),
        output_(thread_name, fd),
        chip_({[this](uint8_t byte) { output_.Put(&byte, 1); }, [this] { irq_.Trigger(); },
               std::move(room)}) {}

  uint32_t Read(uint32_t offset, uint8_t size_bytes) override {
    return chip_.Read(offset, size_bytes);
  }
  void Write(uint32_t offset, uint8_t size_bytes, uint32_t value) override {
    chip_.Write(offset, size_bytes, value);
  }

  Uart16550& chip() { return chip_; }
  Output& output() { return output_; }

 private:
  Irq irq_;
  Output output_;
  Uart16550 chip_;
};

}  // namespace vmm
