#include "../../native/serial/uart16550.h"

#include <string>
#include <thread>
#include <utility>

#include "check.h"

namespace {

enum : uint32_t { kData, kIer, kIir, kLcr, kMcr, kLsr, kMsr, kScratch, kFcr = kIir };

/// A chip, what it has sent, and how many edges its interrupt line and its `room` have made.
class Chip {
 public:
  uint8_t Read(uint32_t offset) { return static_cast<uint8_t>(uart_.Read(offset, 1)); }
  void Write(uint32_t offset, uint8_t value) { uart_.Write(offset, 1, value); }
  size_t Input(const std::string& text) {
    return uart_.Input(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  }
  /// Edges since last asked.
  int Edges() { return std::exchange(edges_, 0); }

  std::string sent;
  int rooms = 0;

 private:
  int edges_ = 0;

 public:
  vmm::Uart16550 uart_{{[this](uint8_t byte) { sent.push_back(static_cast<char>(byte)); },
                        [this] { ++edges_; }, [this] { ++rooms; }}};
};

void Registers() {
  Chip chip;
  chip.Write(kScratch, 0xa5);
  CHECK(chip.Read(kScratch) == 0xa5);
  chip.Write(kIer, 0xff);
  CHECK(chip.Read(kIer) == 0x0f);
  chip.Write(kMcr, 0xe3);
  CHECK(chip.Read(kMcr) == 0x03);
  chip.Write(kLsr, 0), chip.Write(kMsr, 0);
  CHECK(chip.Read(kLsr) == 0x60 && chip.Read(kMsr) == 0xb0);
}

void Divisor() {
  Chip chip;
  chip.Write(kIer, 0x01);
  chip.Write(kLcr, 0x83);
  chip.Write(kData, 0x34), chip.Write(kIer, 0x12);
  CHECK(chip.Read(kData) == 0x34 && chip.Read(kIer) == 0x12 && chip.Read(kLcr) == 0x83);
  chip.Write(kLcr, 0x03);
  CHECK(chip.sent.empty() && chip.Read(kIer) == 0x01);
  chip.Write(kData, 'x');
  CHECK(chip.sent == "x");
}

/// What Linux's driver does to find out whether there is a chip, and which.
void LinuxProbe() {
  Chip chip;
  chip.Write(kIer, 0);
  CHECK(chip.Read(kIer) == 0);
  chip.Write(kIer, 0x0f);
  CHECK(chip.Read(kIer) == 0x0f);
  chip.Write(kIer, 0);
  chip.Write(kMcr, 0x10 | 0x0a);  // loopback, OUT2, RTS
  CHECK((chip.Read(kMsr) & 0xf0) == 0x90);
  chip.Write(kMcr, 0);
  CHECK(chip.Read(kIir) >> 6 == 0);  // no FIFO yet
  chip.Write(kFcr, 0x01);
  CHECK(chip.Read(kIir) >> 6 == 3);  // 16550A
  chip.Write(kLcr, 0xbf);
  CHECK(chip.Read(kIir) != 0);  // no enhanced features
  chip.Write(kLcr, 0);
  chip.Write(kFcr, 0);
  CHECK(chip.Read(kIir) >> 6 == 0);
  for (int i = 0; i < 2; ++i) {  // is "transmitter empty" reported each time it is enabled?
    chip.Write(kIer, 0x02);
    CHECK((chip.Read(kIir) & 0x0f) == 0x02);
    chip.Write(kIer, 0);
  }
}

void Loopback() {
  Chip chip;
  chip.Write(kMcr, 0x10);
  chip.Write(kData, 'l');
  CHECK(chip.sent.empty() && (chip.Read(kLsr) & 1) == 1 && chip.Read(kData) == 'l');
  for (uint8_t outputs = 0; outputs < 16; ++outputs) {
    chip.Write(kMcr, 0x10 | outputs);
    const int swapped = (outputs & 2) >> 1 | (outputs & 1) << 1 | (outputs & 0x0c);
    CHECK(chip.Read(kMsr) == swapped << 4);
  }
}

void ReceiveInterrupts() {
  Chip chip;
  CHECK(chip.Input("a") == 1 && chip.Edges() == 0);
  CHECK(chip.Read(kIir) == 0x01 && (chip.Read(kLsr) & 1) == 1);
  chip.Write(kIer, 0x01);  // what waits is a cause as soon as it is enabled
  CHECK(chip.Edges() == 1 && chip.Read(kIir) == 0x04);
  CHECK(chip.Input("b") == 1 && chip.Edges() == 0);  // the line is up already
  CHECK(chip.Read(kData) == 'a' && chip.Read(kIir) == 0x04);
  CHECK(chip.Read(kData) == 'b' && chip.Read(kIir) == 0x01 && (chip.Read(kLsr) & 1) == 0);
  CHECK(chip.Read(kData) == 0);
  CHECK(chip.Input("c") == 1 && chip.Edges() == 1);
  chip.Write(kFcr, 0x03);  // clears it
  CHECK(chip.Read(kIir) == 0xc1 && (chip.Read(kLsr) & 1) == 0);
}

void TransmitInterrupts() {
  Chip chip;
  chip.Write(kData, 'a');
  CHECK(chip.Edges() == 0 && chip.Read(kIir) == 0x01);
  chip.Write(kIer, 0x02);
  CHECK(chip.Edges() == 1);
  CHECK(chip.Read(kIir) == 0x02 && chip.Read(kIir) == 0x01);  // reading it clears it
  for (int i = 0; i < 3; ++i) {
    chip.Write(kData, 'b');
    CHECK(chip.Edges() == 1);
  }
  chip.Write(kIer, 0x02);  // enabled already: nothing new
  CHECK(chip.Edges() == 0);
  chip.Write(kIer, 0);
  CHECK(chip.Read(kIir) == 0x01);
  chip.Write(kData, 'c');
  CHECK(chip.Edges() == 0 && chip.sent == "abbbc");
}

void ReceivedComesFirst() {
  Chip chip;
  chip.Write(kIer, 0x03);
  chip.Edges();
  chip.Input("a");
  CHECK(chip.Edges() == 1 && chip.Read(kIir) == 0x04);
  CHECK(chip.Read(kData) == 'a' && chip.Read(kIir) == 0x02 && chip.Read(kIir) == 0x01);
}

void OddWidths() {
  Chip chip;
  for (const uint8_t size : {2, 4}) {
    chip.uart_.Write(kData, size, 0x41414141);
    chip.uart_.Write(kScratch, size, 0);
    CHECK(chip.uart_.Read(kLsr, size) == ~uint32_t{0});
  }
  CHECK(chip.sent.empty());
}

void Room() {
  Chip chip;
  const std::string paste(100, 'p');
  const auto drain = [&] {
    while ((chip.Read(kLsr) & 1) == 1) chip.Read(kData);
  };
  CHECK(chip.Input("fits") == 4);
  drain();
  CHECK(chip.rooms == 0);
  CHECK(chip.Input(paste) == 64 && chip.Input("more") == 0);
  CHECK(chip.Read(kData) == 'p' && chip.rooms == 0);
  drain();
  CHECK(chip.rooms == 1);
  CHECK(chip.Input(paste) == 64);
  chip.Write(kFcr, 0x03);  // a driver that opens the port clears what came before
  CHECK(chip.rooms == 2);
  chip.Write(kMcr, 0x10);
  CHECK(chip.Input("cut off") == 0 && (chip.Read(kLsr) & 1) == 0 && chip.rooms == 2);
  chip.Write(kMcr, 0);
  CHECK(chip.rooms == 3);
}

void InputWhileDriven() {
  constexpr int kBytes = 20'000;
  Chip chip;
  std::jthread input([&] {
    const uint8_t byte = 'i';
    for (int sent = 0; sent < kBytes;) sent += static_cast<int>(chip.uart_.Input(&byte, 1));
  });
  for (int got = 0; got < kBytes;) {
    chip.Write(kIer, 0x03);
    if ((chip.Read(kLsr) & 1) == 0) continue;
    CHECK(chip.Read(kData) == 'i');
    ++got;
  }
}

}  // namespace

int main() {
  Test("registers keep what they have bits for", Registers);
  Test("the divisor hides behind DLAB", Divisor);
  Test("Linux's probe finds a 16550A", LinuxProbe);
  Test("loopback turns outputs to inputs, and keeps the line quiet", Loopback);
  Test("received bytes interrupt once, and only where enabled", ReceiveInterrupts);
  Test("each byte sent interrupts once, and only where enabled", TransmitInterrupts);
  Test("received bytes are told of before an empty transmitter", ReceivedComesFirst);
  Test("wider accesses do nothing and read all ones", OddWidths);
  Test("input that did not fit is asked for when there is room", Room);
  Test("input comes while the guest drives the chip", InputWhileDriven);
}
