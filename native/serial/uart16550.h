#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>

#include "../kvm/exit_bus.h"

namespace vmm {

/// A 16550A UART as its data sheet describes it; what is sent appears at once, whatever the
/// divisor. Registers are one byte; wider accesses answer all ones and change nothing.
class Uart16550 : public NativeDevice {
 public:
  static constexpr size_t kReceiveBytes = 64;  // deeper than the chip's 16, so that a paste fits

  /// `transmit` and `interrupt` are called on vCPU threads and on that of Input, one at a time.
  struct Wiring {
    std::function<void(uint8_t)> transmit;
    std::function<void()> interrupt;  // an edge
    std::function<void()> room;       // once after an Input that did not fit: the buffer is empty
  };
  explicit Uart16550(Wiring wiring) : wiring_(std::move(wiring)) {}

  uint32_t Read(uint32_t offset, uint8_t size_bytes) override;
  void Write(uint32_t offset, uint8_t size_bytes, uint32_t value) override;
  /// Any thread. How many bytes fitted the receive buffer; `room` follows if that is not all.
  size_t Input(const uint8_t* bytes, size_t count);

 private:
  uint8_t ReadRegister(uint32_t offset);
  void WriteRegister(uint32_t offset, uint8_t value);
  uint8_t TakeReceived();
  void Transmit(uint8_t byte);
  bool Receive(uint8_t byte);
  uint8_t Identify();
  uint8_t LineStatus() const;
  uint8_t ModemStatus() const;
  uint8_t Pending() const;
  void TellRoom();
  void RaiseIfPending(uint8_t before);

  const Wiring wiring_;
  std::mutex mutex_;
  std::array<uint8_t, kReceiveBytes> received_{};
  size_t received_start_ = 0;
  size_t received_count_ = 0;
  uint8_t interrupt_enable_ = 0;
  uint8_t line_control_ = 0;
  uint8_t modem_control_ = 0x08;  // OUT2: the interrupt line is connected
  uint8_t scratch_ = 0;
  uint8_t divisor_low_ = 12;  // 9600 baud, as firmware leaves it
  uint8_t divisor_high_ = 0;
  bool fifo_enabled_ = false;
  bool room_wanted_ = false;
  bool transmitter_emptied_ = false;  // reported by IIR until read or until the next byte
};

}  // namespace vmm
