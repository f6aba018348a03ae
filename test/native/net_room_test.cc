#include <unistd.h>

#include "../../native/engines/net.h"
#include "flag.h"
#include "net_guest.h"

namespace {

constexpr uint16_t kRing = 64;
constexpr uint32_t kRoomBytes = 1526;

/// As Linux' driver of a small ring, which adds buffers when more than half of it is used up. What
/// is left would hold an ordinary frame many times, and has no room for the largest.
void DropsWhatNoRoomIsAddedFor(bool event_idx) {
  const FakeTap tap;
  NetGuest guest(event_idx, kRing);
  vmm::NetOptions options;
  options.id = "_net1";
  options.taps = {tap.fd()};
  options.rx = {true, 65'562};
  vmm::NetEngine engine(options);
  CHECK(engine.Start({guest.rx.queue(), guest.tx.queue()}) == 0);
  for (uint16_t head = 0; head < kRing - 24; ++head)
    guest.OfferRoom(head, NetGuest::kRx + head * kRoomBytes, kRoomBytes);

  tap.Put(Frame(65'000));
  tap.Put(Frame(100));

  const Used used = guest.rx.Await();
  CHECK(used.head == 0 && used.written == kHeaderBytes + 100);
  CHECK(engine.counters().rx_frames == 1);
  Flag ended;
  engine.Stop(ended.Setter());
  CHECK(ended.Await());
  engine.Join();
}

}  // namespace

int main() {
  Test("a frame that the driver adds no buffers for is dropped, and others arrive",
       [] { DropsWhatNoRoomIsAddedFor(false), DropsWhatNoRoomIsAddedFor(true); });
}
