#include "uart16550.h"

#include <utility>

namespace vmm {
namespace {

// Offsets. The first two are the divisor while DLAB is set.
enum : uint32_t {
  kData,
  kInterruptEnable,
  kIdentify,
  kLineControl,
  kModemControl,
  kLineStatus,
  kModemStatus,
  kScratch
};

constexpr uint8_t kDlab = 0x80;                                  // LCR
constexpr uint8_t kLoopback = 0x10;                              // MCR
constexpr uint8_t kEnableReceived = 0x01, kEnableEmpty = 0x02;   // IER
constexpr uint8_t kFifoEnable = 0x01, kFifoClearReceive = 0x02;  // FCR
constexpr uint8_t kIirNone = 0x01, kIirEmpty = 0x02, kIirReceived = 0x04, kIirFifo = 0xc0;
constexpr uint8_t kLsrReady = 0x01, kLsrEmpty = 0x60;
constexpr uint8_t kMsrConnected = 0xb0;  // DCD, DSR, CTS

}  // namespace

uint32_t Uart16550::Read(uint32_t offset, uint8_t size_bytes) {
  if (size_bytes != 1) return ~uint32_t{0};
  const std::lock_guard lock(mutex_);
  const uint8_t value = ReadRegister(offset);
  TellRoom();
  return value;
}

void Uart16550::Write(uint32_t offset, uint8_t size_bytes, uint32_t value) {
  if (size_bytes != 1) return;
  const std::lock_guard lock(mutex_);
  // A byte to send drops "transmitter empty" for the moment that it takes, so an edge follows it.
  const uint8_t before = offset == kData ? uint8_t{kIirNone} : Pending();
  WriteRegister(offset, static_cast<uint8_t>(value));
  RaiseIfPending(before);
  TellRoom();
}

size_t Uart16550::Input(const uint8_t* bytes, size_t count) {
  const std::lock_guard lock(mutex_);
  const bool connected = (modem_control_ & kLoopback) == 0;
  const uint8_t before = Pending();
  size_t taken = 0;
  while (connected && taken < count && Receive(bytes[taken])) ++taken;
  room_wanted_ = taken < count;
  RaiseIfPending(before);
  return taken;
}

uint8_t Uart16550::ReadRegister(uint32_t offset) {
  const bool divisor = (line_control_ & kDlab) != 0;
  switch (offset) {
    case kData:
      return divisor ? divisor_low_ : TakeReceived();
    case kInterruptEnable:
      return divisor ? divisor_high_ : interrupt_enable_;
    case kIdentify:
      return Identify();
    case kLineControl:
      return line_control_;
    case kModemControl:
      return modem_control_;
    case kLineStatus:
      return LineStatus();
    case kModemStatus:
      return ModemStatus();
    default:
      return scratch_;
  }
}

void Uart16550::WriteRegister(uint32_t offset, uint8_t value) {
  const bool divisor = (line_control_ & kDlab) != 0;
  switch (offset) {
    case kData:
      if (divisor)
        divisor_low_ = value;
      else
        Transmit(value);
      return;
    case kInterruptEnable:
      if (divisor) {
        divisor_high_ = value;
        return;
      }
      // Enabling it while the transmitter is empty, as it always is, asks for one at once.
      if ((value & ~interrupt_enable_ & kEnableEmpty) != 0) transmitter_emptied_ = true;
      interrupt_enable_ = value & 0x0f;
      return;
    case kIdentify:  // FCR on writes
      fifo_enabled_ = (value & kFifoEnable) != 0;
      if ((value & kFifoClearReceive) != 0) received_count_ = 0;
      return;
    case kLineControl:
      line_control_ = value;
      return;
    case kModemControl:
      modem_control_ = value & 0x1f;
      return;
    case kScratch:
      scratch_ = value;
      return;
    default:
      return;  // the status registers are read-only
  }
}

uint8_t Uart16550::TakeReceived() {
  if (received_count_ == 0) return 0;
  const uint8_t byte = received_[received_start_];
  received_start_ = (received_start_ + 1) % kReceiveBytes;
  --received_count_;
  return byte;
}

void Uart16550::Transmit(uint8_t byte) {
  if ((modem_control_ & kLoopback) != 0)
    Receive(byte);
  else
    wiring_.transmit(byte);
  transmitter_emptied_ = true;
}

bool Uart16550::Receive(uint8_t byte) {
  if (received_count_ == kReceiveBytes) return false;
  received_[(received_start_ + received_count_++) % kReceiveBytes] = byte;
  return true;
}

/// Reading the cause "transmitter empty" is what clears it.
uint8_t Uart16550::Identify() {
  const uint8_t cause = Pending();
  if (cause == kIirEmpty) transmitter_emptied_ = false;
  return static_cast<uint8_t>(cause | (fifo_enabled_ ? kIirFifo : 0));
}

uint8_t Uart16550::LineStatus() const {
  return static_cast<uint8_t>(kLsrEmpty | (received_count_ > 0 ? kLsrReady : 0));
}

/// In loopback the four modem outputs come back on the four inputs: drivers probe for it.
uint8_t Uart16550::ModemStatus() const {
  if ((modem_control_ & kLoopback) == 0) return kMsrConnected;
  const uint8_t dtr = modem_control_ & 1, rts = (modem_control_ >> 1) & 1;
  const uint8_t out1 = (modem_control_ >> 2) & 1, out2 = (modem_control_ >> 3) & 1;
  return static_cast<uint8_t>(rts << 4 | dtr << 5 | out1 << 6 | out2 << 7);
}

uint8_t Uart16550::Pending() const {
  if (received_count_ > 0 && (interrupt_enable_ & kEnableReceived) != 0) return kIirReceived;
  if (transmitter_emptied_ && (interrupt_enable_ & kEnableEmpty) != 0) return kIirEmpty;
  return kIirNone;
}

/// A driver empties the buffer by reading it or by clearing it, and ends loopback when it has
/// probed.
void Uart16550::TellRoom() {
  const bool room = received_count_ == 0 && (modem_control_ & kLoopback) == 0;
  if (room && std::exchange(room_wanted_, false)) wiring_.room();
}

void Uart16550::RaiseIfPending(uint8_t before) {
  const uint8_t now = Pending();
  if (now != kIirNone && now != before) wiring_.interrupt();
}

}  // namespace vmm
