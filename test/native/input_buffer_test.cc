#include "../../native/serial/input_buffer.h"

#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {

using vmm::InputBuffer;

size_t Put(InputBuffer* buffer, const std::string& text) {
  return buffer->Put(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

void TellsOfTheFirstByteOnly() {
  int arrivals = 0;
  InputBuffer buffer([&] { ++arrivals; });
  std::vector<uint8_t> taken;

  CHECK(Put(&buffer, "") == 0 && arrivals == 0);
  CHECK(Put(&buffer, "ab") == 2 && arrivals == 1);
  CHECK(Put(&buffer, "c") == 1 && arrivals == 1);
  CHECK(!buffer.Take(&taken));
  CHECK(std::string(taken.begin(), taken.end()) == "abc");
  CHECK(Put(&buffer, "d") == 1 && arrivals == 2);
}

void RefusesWhatDoesNotFit() {
  InputBuffer buffer([] {});
  std::vector<uint8_t> taken;

  CHECK(Put(&buffer, std::string(InputBuffer::kBytes - 1, 'x')) == InputBuffer::kBytes - 1);
  CHECK(Put(&buffer, "yz") == 1);
  CHECK(Put(&buffer, "z") == 0);
  CHECK(buffer.Take(&taken));
  CHECK(taken.size() == InputBuffer::kBytes && taken.back() == 'y');
  CHECK(!buffer.Take(&taken));
  CHECK(taken.empty());
}

/// A taker that comes only when it is called loses nothing.
void CarriesAStreamBetweenThreads() {
  constexpr size_t kTotal = 1 << 20;
  std::atomic<int> arrivals = 0;
  InputBuffer buffer([&] { ++arrivals, arrivals.notify_one(); });
  std::thread sender([&] {
    for (size_t sent = 0; sent < kTotal;) {
      const auto byte = static_cast<uint8_t>(sent % 251);
      sent += buffer.Put(&byte, 1);
    }
  });
  std::vector<uint8_t> taken;
  size_t got = 0;
  for (int seen = 0; got < kTotal; ++seen) {
    arrivals.wait(seen);
    static_cast<void>(buffer.Take(&taken));
    for (const uint8_t byte : taken) CHECK(byte == got++ % 251);
  }
  sender.join();
}

}  // namespace

int main() {
  alarm(60);  // what ought to end and does not
  Test("who takes is told of the first byte only", TellsOfTheFirstByteOnly);
  Test("what does not fit is refused, and room is told of", RefusesWhatDoesNotFit);
  Test("a taker that waits to be told loses nothing", CarriesAStreamBetweenThreads);
}
