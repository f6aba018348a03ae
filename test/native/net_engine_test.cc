#include <sched.h>
#include <unistd.h>

#include <functional>
#include <optional>

#include "../../native/engines/net.h"
#include "flag.h"
#include "net_guest.h"
#include "threads.h"

namespace {

constexpr uint64_t kRx = NetGuest::kRx, kTx = NetGuest::kTx;
constexpr uint32_t kFrameMax = 65'562;
constexpr int64_t kPatienceNs = 60'000'000'000;

/// Of each direction; null for none.
struct Limits {
  std::shared_ptr<vmm::RateLimiter> rx = nullptr, tx = nullptr;
};

std::shared_ptr<vmm::RateLimiter> Frames(uint64_t count, uint64_t each_ms) {
  return std::make_shared<vmm::RateLimiter>(vmm::TokenBucketOptions{},
                                            vmm::TokenBucketOptions{count, each_ms});
}

std::shared_ptr<vmm::RateLimiter> BytesPerMs(uint64_t count) {
  return std::make_shared<vmm::RateLimiter>(vmm::TokenBucketOptions{count * 50, 50},
                                            vmm::TokenBucketOptions{});
}

/// A card of one pair on a stand-in for a tap.
class Card {
 public:
  explicit Card(bool merge = true, bool event_idx = true, uint32_t frame_max = kFrameMax,
                uint16_t size = NetGuest::kSize, const Limits& limits = {})
      : guest(event_idx, size) {
    vmm::NetOptions options;
    options.id = "_net1";
    options.taps = {tap.fd()};
    options.rx = {merge, frame_max, kPatienceNs, limits.rx};
    options.tx_limiter = limits.tx;
    options.on_tap_error = [this](const std::string& message) {
      message_ = message;
      errors.fetch_add(1);
    };
    engine = std::make_unique<vmm::NetEngine>(options);
    CHECK(engine->Start({guest.rx.queue(), guest.tx.queue()}) == 0);
  }
  ~Card() {
    Flag ended;
    engine->Stop(ended.Setter());
    CHECK(ended.Await());
    engine->Join();
  }
  void Pause() {
    Flag parked;
    engine->Pause(parked.Setter());
    CHECK(parked.Await());
  }
  void AwaitError() {
    while (errors.load() == 0) usleep(1000);
    CHECK(message_ == "The tap of queue pair 0 is gone");
  }

  FakeTap tap;
  NetGuest guest;
  std::atomic<int> errors = 0;
  std::unique_ptr<vmm::NetEngine> engine;

 private:
  std::string message_;
};

/// A frame that the guest received in one buffer at `gpa`, with the number of buffers set right.
bool Holds(const NetGuest& guest, uint64_t gpa, Bytes frame, uint8_t num_buffers = 1) {
  frame[10] = num_buffers;
  return guest.Read(gpa, frame.size()) == frame;
}

void BothWays(bool event_idx) {
  for (const bool merge : {false, true}) {
    Card card(merge, event_idx);
    card.guest.OfferRoom(3, kRx, kFrameMax);
    card.guest.Send(5, Frame(60));
    CHECK(card.guest.tx.Await().head == 5);
    CHECK(card.tap.Get() == Frame(60));

    card.tap.Put(Frame(1514, 7));

    const Used used = card.guest.rx.Await();
    CHECK(used.head == 3 && used.written == kHeaderBytes + 1514);
    CHECK(Holds(card.guest, kRx, Frame(1514, 7)));
    const vmm::NetCounters counters = card.engine->counters();
    CHECK(counters.rx_frames == 1 && counters.rx_bytes == 1514);
    CHECK(counters.tx_frames == 1 && counters.tx_bytes == 60);
  }
}

void ScattersAndGathers() {
  Card card(false);
  const Bytes frame = Frame(1000);
  std::vector<Buffer> room, parts;
  for (uint32_t i = 0; i < 14; ++i) room.push_back({kRx + i, 1, true});
  room.push_back({kRx + 14, 4000, true});
  card.guest.Write(kTx, frame);
  for (uint32_t i = 0; i < 14; ++i) parts.push_back({kTx + i, 1});
  parts.push_back({kTx + 14, static_cast<uint32_t>(frame.size() - 14)});

  card.guest.tx.Offer(20, parts);
  card.guest.tx.Kick();
  CHECK(card.tap.Get() == frame);
  card.guest.rx.Offer(20, room);
  card.guest.rx.Kick();
  card.tap.Put(frame);

  CHECK(card.guest.rx.Await().written == frame.size());
  CHECK(Holds(card.guest, kRx, frame));
}

void MergesBuffers() {
  Card card;
  for (uint16_t head = 0; head < 8; ++head)
    card.guest.rx.Offer(head, {{kRx + head * 1024U, 1024, true}});
  card.guest.rx.Kick();
  const Bytes large = Frame(3000), small = Frame(100, 9);

  card.tap.Put(large);
  card.tap.Put(small);

  for (const uint32_t head : {0U, 1U}) {
    const Used used = card.guest.rx.Await();
    CHECK(used.head == head && used.written == 1024);
  }
  const Used last = card.guest.rx.Await();
  CHECK(last.head == 2 && last.written == large.size() - 2048);
  CHECK(Holds(card.guest, kRx, large, 3));
  CHECK(card.guest.rx.Await().head == 3);
  CHECK(Holds(card.guest, kRx + 3 * 1024, small));
}

void DropsWhatDoesNotFit() {
  Card card(false);
  card.guest.OfferRoom(0, kRx, 1000);
  card.tap.Put(Frame(1000));
  card.tap.Put(Frame(988, 5));

  const Used used = card.guest.rx.Await();

  CHECK(used.head == 0 && used.written == 1000 && Holds(card.guest, kRx, Frame(988, 5)));
  CHECK(card.engine->counters().rx_frames == 1);
}

void KeepsWhatWillFit() {
  for (const bool event_idx : {false, true}) {
    Card card(true, event_idx);
    const Bytes frame = Frame(3000);
    card.guest.rx.Offer(0, {{kRx, 1024, true}});
    card.guest.rx.Kick();
    card.tap.Put(frame);
    CHECK(Sleeps("_net1_qp0"));
    card.Pause();
    CHECK(card.guest.rx.device().in_flight_count() == 0);
    card.engine->Resume();
    card.guest.rx.Offer(1, {{kRx + 1024, 1024, true}});
    card.guest.rx.Kick();
    CHECK(Sleeps("_net1_qp0"));
    Used used{};
    CHECK(!card.guest.rx.TakeUsed(&used));

    card.guest.rx.Offer(2, {{kRx + 2048, 1024, true}});
    card.guest.rx.Kick();

    for (const uint32_t head : {0U, 1U, 2U}) CHECK(card.guest.rx.Await().head == head);
    CHECK(Holds(card.guest, kRx, frame, 3));
  }
}

void DropsWhatTheRingCannotHold() {
  Card card(true, true, kFrameMax, 4);
  for (uint16_t head = 0; head < 4; ++head) card.guest.OfferRoom(head, kRx + head * 1024U, 1024);
  card.tap.Put(Frame(5000));
  card.tap.Put(Frame(50));

  CHECK(card.guest.rx.Await().head == 0);
  CHECK(Holds(card.guest, kRx, Frame(50)));
}

void RecoversFromFullRing() {
  for (const bool event_idx : {false, true}) {
    Card card(true, event_idx);
    for (uint8_t i = 0; i < 5; ++i) card.tap.Put(Frame(100, i));
    CHECK(Sleeps("_net1_qp0"));
    for (uint8_t i = 0; i < 5; ++i) {
      card.guest.OfferRoom(i, kRx, 2048);
      CHECK(card.guest.rx.Await().head == i);
      CHECK(Holds(card.guest, kRx, Frame(100, i)));
    }
  }
}

void RecoversFromFullTap() {
  for (const bool event_idx : {false, true}) {
    Card card(true, event_idx);
    card.tap.Fill();
    card.guest.Send(0, Frame(100));
    card.guest.Send(1, Frame(200), kTx + 1000);
    CHECK(Sleeps("_net1_qp0"));

    while (card.tap.Get() != Frame(100)) continue;

    CHECK(card.guest.tx.Await().head == 0 && card.guest.tx.Await().head == 1);
    CHECK(card.tap.Get() == Frame(200));
  }
}

void DropsWhatWaitedWhenOutOfUse() {
  Card card;
  card.tap.Fill();
  card.guest.Send(0, Frame(100));
  CHECK(Sleeps("_net1_qp0"));

  card.engine->SetPairs(0);

  CHECK(card.guest.tx.Await().head == 0 && card.engine->counters().tx_frames == 0);
}

void PausesWithFullTap() {
  Card card;
  card.tap.Fill();
  card.guest.Send(0, Frame(100));
  card.guest.OfferRoom(0, kRx, 2048);
  card.Pause();
  CHECK(card.guest.tx.device().in_flight_count() == 0);
  CHECK(card.guest.rx.device().in_flight_count() == 0);
  card.tap.Put(Frame(70));
  card.guest.Send(1, Frame(200), kTx + 1000);
  Used used{};
  usleep(50'000);
  CHECK(!card.guest.rx.TakeUsed(&used));

  card.engine->Resume();

  CHECK(card.guest.rx.Await().head == 0);
  while (card.tap.Get() != Frame(100)) continue;
  CHECK(card.guest.tx.Await().head == 0 && card.guest.tx.Await().head == 1);
}

void DropsWhatIsNoFrame() {
  Card card;
  card.guest.Send(0, Bytes(11));
  card.guest.tx.Offer(1, {{kTx, 4096, true}});
  card.guest.tx.Offer(2, {{kTx, 65'536}, {kTx, 100}});
  card.guest.Send(4, Frame(60));

  for (const uint32_t head : {0U, 1U, 2U, 4U}) CHECK(card.guest.tx.Await().head == head);

  CHECK(card.tap.Get() == Frame(60) && !card.tap.HasFrame());
  CHECK(card.engine->counters().tx_frames == 1);
}

void BreaksOneQueue() {
  Card bad_room;
  bad_room.guest.OfferRoom(0, kRx, 11);
  bad_room.guest.rx.AwaitFault();
  CHECK(bad_room.guest.rx.fault() == "receive buffer without room for a header");
  bad_room.guest.Send(0, Frame(60));
  CHECK(bad_room.guest.tx.Await().head == 0);

  Card bad_head;
  bad_head.guest.tx.driver().Offer(NetGuest::kSize);
  bad_head.guest.tx.Kick();
  bad_head.guest.tx.AwaitFault();
  bad_head.guest.OfferRoom(0, kRx, 2048);
  bad_head.tap.Put(Frame(60));
  CHECK(bad_head.guest.rx.Await().head == 0);
}

void BreaksOnTooManyPieces() {
  Card card(false, true, kFrameMax, 1024);
  std::vector<Buffer> room(1024, {kRx, 16, true});
  card.guest.rx.Offer(0, room);
  card.guest.rx.Kick();
  card.guest.rx.AwaitFault();
  CHECK(card.guest.rx.fault() == "receive buffer of too many pieces");
}

void SleepsWhileIdle() {
  for (const bool event_idx : {false, true}) {
    Card card(true, event_idx);
    for (uint16_t head = 0; head < 64; ++head) card.guest.OfferRoom(head, kRx, 2048);
    card.guest.Send(0, Frame(60));
    card.guest.tx.Await();
    CHECK(Sleeps("_net1_qp0"));
    const uint32_t kicks = card.guest.rx.kicks;
    for (uint16_t head = 64; head < 128; ++head) card.guest.OfferRoom(head, kRx, 2048);
    CHECK(card.guest.rx.kicks == kicks);
  }
}

void SurvivesItsTap() {
  Card card;
  card.guest.OfferRoom(0, kRx, 2048);
  card.tap.Drop();
  card.AwaitError();

  for (uint16_t head = 0; head < 100; ++head) card.guest.Send(head, Frame(60));

  for (uint16_t head = 0; head < 100; ++head) CHECK(card.guest.tx.Await().head == head);
  CHECK(Sleeps("_net1_qp0") && card.errors.load() == 1);
  CHECK(card.engine->counters().tx_frames == 0);
}

/// A guest that always has more to send does not keep what arrives waiting.
void TakesTurns() {
  Card card;
  // Chains that all end in the same long one, too long for a frame: slower to take than to offer.
  constexpr uint16_t kChains = NetGuest::kSize / 2;
  card.guest.tx.Offer(kChains - 1, std::vector<Buffer>(kChains + 1, {kTx, 1000}));
  for (uint16_t head = 0; head + 1 < kChains; ++head) {
    card.guest.tx.driver().Describe(head, {kTx, 1000, vmm::kDescriptorNext, kChains});
    card.guest.tx.driver().Offer(head);
  }
  card.guest.OfferRoom(0, kRx, 2048);
  card.guest.tx.Kick();

  Used sent{}, received{};
  uint64_t sent_count = 0;
  while (!card.guest.rx.TakeUsed(&received)) {
    for (; card.guest.tx.TakeUsed(&sent); card.guest.tx.driver().Offer(sent.head & 0xffff))
      if (++sent_count == 1000) card.tap.Put(Frame(60));
    card.guest.tx.Kick();
    CHECK(sent_count < 50'000);
  }
}

void TwoPairs() {
  FakeTap taps[2];
  NetGuest guests[2];
  vmm::NetOptions options;
  options.id = "_net1";
  options.taps = {taps[0].fd(), taps[1].fd()};
  options.rx = {true, kFrameMax};
  vmm::NetEngine engine(options);
  CHECK(engine.Start({guests[0].rx.queue(), guests[0].tx.queue(), guests[1].rx.queue(),
                      guests[1].tx.queue()}) == 0);
  for (NetGuest& guest : guests) guest.OfferRoom(0, kRx, 2048);
  for (NetGuest& guest : guests) guest.OfferRoom(1, kRx + 2048, 2048);
  for (const FakeTap& tap : taps) tap.Put(Frame(60));

  CHECK(guests[0].rx.Await().head == 0 && Sleeps("_net1_qp1"));
  guests[1].Send(0, Frame(99));
  CHECK(guests[1].tx.Await().head == 0 && !taps[1].HasFrame());
  engine.SetPairs(2);
  CHECK(guests[1].rx.Await().head == 0);
  guests[1].Send(1, Frame(98));
  CHECK(taps[1].Get() == Frame(98));
  engine.SetPairs(1);
  taps[1].Put(Frame(60));
  CHECK(Sleeps("_net1_qp1"));
  CHECK(engine.counters().rx_frames == 2 && engine.counters().tx_frames == 1);

  Flag ended;
  engine.Stop(ended.Setter());
  CHECK(ended.Await());
}

/// Sending only, as where the driver has set up no other queue.
void OneQueueOfAPair() {
  FakeTap tap;
  NetGuest guest;
  vmm::NetOptions options;
  options.id = "_net1";
  options.taps = {tap.fd()};
  options.rx = {true, kFrameMax};
  vmm::NetEngine engine(options);
  CHECK(engine.Start({std::nullopt, guest.tx.queue()}) == 0);
  tap.Put(Frame(60));
  guest.Send(0, Frame(60));
  CHECK(tap.Get() == Frame(60) && Sleeps("_net1_qp0"));
  Flag ended;
  engine.Stop(ended.Setter());
  CHECK(ended.Await());
}

double SecondsOf(const std::function<void()>& act) {
  const int64_t begin_ns = vmm::SteadyNowNs();
  act();
  return static_cast<double>(vmm::SteadyNowNs() - begin_ns) / 1e9;
}

/// 500 frames of those that idleness does not pay for, at a thousand a second.
void KeepsToLimits(const Limits& limits) {
  Card card(true, true, kFrameMax, NetGuest::kSize, limits);
  const double seconds = SecondsOf([&card, &limits] {
    for (uint16_t i = 0; i < 550; ++i) {
      if (limits.tx != nullptr) {
        card.guest.Send(0, Frame(1000));
        card.guest.tx.Await();
        card.tap.Get();
      } else {
        card.guest.OfferRoom(0, kRx, kFrameMax);
        card.tap.Put(Frame(1000));
        card.guest.rx.Await();
      }
    }
  });
  CHECK(seconds > 0.475 && seconds < 1);
}

/// Of a frame in ten seconds, one is saved up and one passes on credit: the third stays in the
/// ring, and the thread asleep.
void WaitsForItsTurn() {
  Card card(true, true, kFrameMax, NetGuest::kSize, {nullptr, Frames(1, 10'000)});
  for (int i = 0; i < 2; ++i) {
    card.guest.Send(0, Frame(60));
    card.guest.tx.Await();
    card.tap.Get();
  }
  card.guest.Send(1, Frame(60));
  card.guest.OfferRoom(0, kRx, kFrameMax);

  card.tap.Put(Frame(60));

  CHECK(card.guest.rx.Await().head == 0);
  CHECK(Sleeps("_net1_qp0") && !card.tap.HasFrame());
  card.Pause();
  CHECK(card.guest.tx.device().in_flight_count() == 0);
}

}  // namespace

int main() {
  Test("frames pass both ways, and are counted without their headers",
       [] { BothWays(true), BothWays(false); });
  Test("a frame and its header may lie in pieces of a byte", ScattersAndGathers);
  Test("a frame is merged from buffers that it fills, and the next has those behind",
       MergesBuffers);
  Test("a frame larger than its buffer is dropped, and the buffer takes the next",
       DropsWhatDoesNotFit);
  Test("a frame that several buffers could hold waits until there are so many", KeepsWhatWillFit);
  Test("a frame that the whole ring cannot hold is dropped", DropsWhatTheRingCannotHold);
  Test("without buffers nothing is taken and nothing spins; with them all arrive",
       RecoversFromFullRing);
  Test("frames wait for a full tap in their ring, and leave in order", RecoversFromFullTap);
  Test("a frame that waits for a full tap is dropped when its pair goes out of use",
       DropsWhatWaitedWhenOutOfUse);
  Test("a pause with a full tap holds nothing, and moves nothing until the resume",
       PausesWithFullTap);
  Test("what is too short or too long for a frame is dropped, and given back", DropsWhatIsNoFrame);
  Test("a broken queue leaves the other direction alone", BreaksOneQueue);
  Test("a buffer of more pieces than one read takes breaks its queue", BreaksOnTooManyPieces);
  Test("an idle thread sleeps, and buffers wake nobody", SleepsWhileIdle);
  Test("a tap that goes is told of once; what is sent then is dropped", SurvivesItsTap);
  Test("a busy sender does not keep the receiver waiting", TakesTurns);
  Test("the second pair works while it is in use, and drops or leaves frames while it is not",
       TwoPairs);
  Test("a pair of one queue serves that", OneQueueOfAPair);
  Test("a direction keeps to its limit of frames and of bytes", [] {
    KeepsToLimits({nullptr, Frames(50, 50)}), KeepsToLimits({Frames(50, 50), nullptr});
    KeepsToLimits({nullptr, BytesPerMs(1000)}), KeepsToLimits({BytesPerMs(1000), nullptr});
  });
  Test("who waits for its turn holds nothing, spins not, and keeps nobody waiting",
       WaitsForItsTurn);
}
