#include "../../native/virtio/queue.h"

#include <poll.h>

#include <cstring>
#include <random>
#include <thread>

#include "../../native/base/event_fd.h"
#include "driver.h"

namespace {

using vmm::Chain;
using vmm::Queue;
using vmm::QueueOptions;
using Taken = vmm::Queue::Taken;

constexpr uint16_t kSize = 8;
constexpr uint64_t kBuffers = 0x30000;

/// A queue of 8 with a one-byte chain at each head.
struct Bench {
  std::shared_ptr<vmm::GuestMemory> memory = MakeRam();
  Driver driver;
  Queue queue;
  Chain chain;
  uint16_t head = 0;

  explicit Bench(const QueueOptions& options = {.size = kSize})
      : driver(memory, options), queue(driver.MakeQueue()) {
    for (uint16_t i = 0; i < kSize; ++i) driver.DescribeChain(i, {{kBuffers, 1}});
    CHECK(queue.Begin());
  }
  Taken Take() { return queue.Take(&chain, &head); }
  void TakeAll() {
    while (Take() == Taken::kChain) continue;
  }
  bool IsBroken(const char* fault) {
    return queue.fault() != nullptr && std::strcmp(queue.fault(), fault) == 0;
  }
};

bool Begins(const QueueOptions& options) {
  const auto memory = MakeRam();
  return Driver(memory, options).MakeQueue().Begin();
}

void GoesRound() {
  Bench bench;
  Used used{};
  for (int round = 0; round < 70'000; ++round) {  // indices wrap at 2^16
    const auto head = static_cast<uint16_t>(round % kSize);
    bench.driver.Offer(head);
    CHECK(bench.Take() == Taken::kChain && bench.head == head);
    CHECK(bench.Take() == Taken::kNone);
    bench.queue.Complete(head, static_cast<uint32_t>(round));
    CHECK(!bench.driver.TakeUsed(&used));
    CHECK(bench.queue.Publish());
    CHECK(bench.driver.TakeUsed(&used) && used.head == head);
    CHECK(used.written == static_cast<uint32_t>(round));
  }
}

void GivesBackInAnyOrder() {
  Bench bench;
  for (const uint16_t head : {3, 1, 2}) bench.driver.Offer(head);
  bench.TakeAll();
  CHECK(bench.queue.in_flight_count() == 3);
  for (const uint16_t head : {2, 3, 1}) bench.queue.Complete(head, head);
  CHECK(bench.queue.Publish() && !bench.queue.Publish());
  Used used{};
  for (const uint16_t head : {2, 3, 1})
    CHECK(bench.driver.TakeUsed(&used) && used.head == head && used.written == head);
  CHECK(!bench.driver.TakeUsed(&used) && bench.queue.in_flight_count() == 0);
}

void FindsAgainWhatWasGivenBack() {
  Bench bench;
  for (const uint16_t head : {3, 1, 2}) bench.driver.Offer(head);
  bench.TakeAll();
  const uint16_t last[] = {1, 2};

  bench.queue.GiveBack(last);

  CHECK(bench.queue.in_flight_count() == 1);
  for (const uint16_t head : last) CHECK(bench.Take() == Taken::kChain && bench.head == head);
  CHECK(bench.Take() == Taken::kNone);
}

void BreaksIfTooManyAreOffered() {
  Bench bench;
  for (uint16_t i = 0; i < kSize; ++i) bench.driver.Offer(i);
  bench.TakeAll();
  CHECK(bench.queue.fault() == nullptr && bench.queue.in_flight_count() == kSize);

  Bench hostile;
  hostile.driver.SetAvailIdx(kSize + 1);
  CHECK(hostile.Take() == Taken::kBroken);
  CHECK(hostile.IsBroken("more chains available than the queue holds"));
  Bench backwards;
  backwards.driver.SetAvailIdx(UINT16_MAX);
  CHECK(backwards.Take() == Taken::kBroken);
}

void BreaksIfHeadIsInFlight() {
  Bench bench;
  bench.driver.Offer(3);
  bench.TakeAll();
  bench.queue.Complete(3, 0);
  bench.driver.Offer(3);
  CHECK(bench.Take() == Taken::kChain);
  bench.driver.Offer(3);
  CHECK(bench.Take() == Taken::kBroken && bench.IsBroken("head that is in flight already"));
}

void BreaksIfHeadIsBeyond() {
  Bench bench;
  bench.driver.Offer(kSize);
  CHECK(bench.Take() == Taken::kBroken && bench.IsBroken("head beyond the table"));
}

void BreaksIfChainIsBad() {
  Bench bench;
  bench.driver.DescribeChain(0, {{kRamBytes, 1}});
  bench.driver.Offer(0);
  CHECK(bench.Take() == Taken::kBroken && bench.IsBroken("buffer outside RAM"));
}

void StaysBroken() {
  Bench bench;
  bench.driver.Offer(1);
  bench.driver.Offer(2);
  bench.TakeAll();
  bench.queue.Complete(2, 1);
  bench.driver.Offer(kSize);
  CHECK(bench.Take() == Taken::kBroken);
  bench.queue.Complete(1, 1);
  Used used{};
  CHECK(!bench.queue.Publish() && !bench.driver.TakeUsed(&used));
  CHECK(bench.queue.in_flight_count() == 0);
  CHECK(!bench.queue.Begin() && !bench.queue.EnableKicks() && bench.Take() == Taken::kBroken);
}

void RefusesSizes() {
  for (const uint16_t size : {0, 3, 6, 257, 65535}) {
    const vmm::Queue queue(MakeRam(), {size, 0x10000, 0x20000, 0x30000});
    CHECK(queue.fault() != nullptr);
  }
  for (const uint16_t size : {1, 2, 256}) CHECK(Begins({.size = size}));
}

void RefusesRings() {
  constexpr uint64_t kDesc = 0x10000, kAvail = 0x11000, kUsed = 0x12000;
  constexpr uint64_t kAvailBytes = 6 + 2 * kSize, kUsedBytes = 6 + 8 * kSize;
  CHECK(Begins({kSize, kDesc, kAvail, kUsed}));
  CHECK(!Begins({kSize, kDesc + 8, kAvail, kUsed}));
  CHECK(!Begins({kSize, kDesc, kAvail + 1, kUsed}));
  CHECK(!Begins({kSize, kDesc, kAvail, kUsed + 2}));
  for (const uint64_t outside : {kRamBytes, kHighGpa + kHighBytes, UINT64_MAX - 3}) {
    CHECK(!Begins({kSize, kDesc, outside, kUsed}));
    CHECK(!Begins({kSize, kDesc, kAvail, outside}));
  }
  CHECK(Begins({kSize, kDesc, kRamBytes - kAvailBytes, kRamBytes - kUsedBytes - 2}));
  CHECK(!Begins({kSize, kDesc, kRamBytes - kAvailBytes + 2, kUsed}));
  CHECK(!Begins({kSize, kDesc, kAvail, kRamBytes - kUsedBytes + 2}));
}

/// Nothing is written where the rings were; the chain's own bytes are there as long as it is.
void SurvivesLossOfRam() {
  Bench bench;
  bench.driver.Offer(0);
  CHECK(bench.Take() == Taken::kChain);
  const auto held = bench.queue.regions();
  bench.memory->Clear();
  CHECK(!bench.queue.Begin() && bench.IsBroken("ring outside RAM"));
  bench.queue.Complete(0, 0);
  CHECK(!bench.queue.Publish());
  Used used{};
  CHECK(!bench.driver.TakeUsed(&used));
  *static_cast<std::byte*>(bench.chain.readable.items[0].iov_base) = std::byte{1};
}

void SuppressesByFlags() {
  Bench bench;
  bench.queue.DisableKicks();
  CHECK(!bench.driver.WantsKick());
  CHECK(!bench.queue.EnableKicks() && bench.driver.WantsKick());
  bench.driver.Offer(0);
  CHECK(bench.queue.EnableKicks());

  bench.driver.EnableInterrupts(false);
  bench.TakeAll();
  bench.queue.Complete(0, 0);
  CHECK(!bench.queue.Publish());
  CHECK(bench.driver.EnableInterrupts());
}

/// The device interrupts if, and only if, the entry that the driver named is among the new ones:
/// told from a model that counts without end.
void InterruptsByEventIndex() {
  Bench bench({.size = kSize, .event_idx = true});
  std::mt19937 random(1);
  Used used{};
  uint64_t given = 0;
  uint64_t event = 0;
  while (given < 200'000) {
    if (random() % 4 == 0) {
      event = given + random() % 20;
      bench.driver.SetUsedEvent(static_cast<uint16_t>(event));
    }
    const uint64_t count = 1 + random() % kSize;
    for (uint64_t i = 0; i < count; ++i) bench.driver.Offer(static_cast<uint16_t>(i));
    bench.TakeAll();
    for (uint64_t i = 0; i < count; ++i) bench.queue.Complete(static_cast<uint16_t>(i), 0);
    const bool wanted = event >= given && event < given + count;
    // What is long past comes to mean what is to come, a round later.
    const bool again = event + 65'536 >= given && event + 65'536 < given + count;
    CHECK(bench.queue.Publish() == (wanted || again));
    while (bench.driver.TakeUsed(&used)) ++given;
  }
}

void AsksForKicksByEventIndex() {
  Bench bench({.size = kSize, .event_idx = true});
  for (int round = 0; round < 40'000; ++round) {
    bench.driver.Offer(0);
    CHECK(bench.driver.WantsKick());
    bench.queue.DisableKicks();
    bench.driver.Offer(1);
    CHECK(!bench.driver.WantsKick());
    CHECK(bench.queue.EnableKicks());
    bench.TakeAll();
    CHECK(!bench.queue.EnableKicks());
    for (const uint16_t head : {0, 1}) bench.queue.Complete(head, 0);
  }
}

/// Waits for a signal, and not for ever: one that was lost would never come.
void Await(const vmm::EventFd& event) {
  pollfd readable{event.get(), POLLIN, 0};
  CHECK(poll(&readable, 1, 30'000) == 1);
  event.Take();
}

/// The device on a thread of its own, as an engine has it.
void Serve(Queue queue, const vmm::EventFd& kick, const vmm::EventFd& irq, uint32_t chains) {
  Chain chain;
  uint16_t head = 0;
  for (uint32_t served = 0; served < chains;) {
    CHECK(queue.Begin());
    queue.DisableKicks();
    Taken taken = Taken::kNone;
    while ((taken = queue.Take(&chain, &head)) == Taken::kChain) {
      auto* byte = static_cast<uint8_t*>(chain.writable.items[0].iov_base);
      *byte = static_cast<uint8_t>(*byte + 1);
      queue.Complete(head, 1);
      ++served;
      if (served % 3 == 0 && queue.Publish()) irq.Signal();
    }
    CHECK(taken == Taken::kNone);
    if (queue.Publish()) irq.Signal();
    if (!queue.EnableKicks() && served < chains) Await(kick);
  }
}

void LosesNoNotification(bool event_idx) {
  constexpr uint32_t kChains = 100'000;
  Bench bench({.size = kSize, .event_idx = event_idx});
  const vmm::EventFd kick, irq;
  for (uint16_t i = 0; i < kSize; ++i) bench.driver.DescribeChain(i, {{kBuffers + i, 1, true}});
  std::jthread device(Serve, bench.driver.MakeQueue(), std::cref(kick), std::cref(irq), kChains);
  Used used{};
  uint32_t offered = 0;
  for (; offered < kSize; ++offered) bench.driver.Offer(static_cast<uint16_t>(offered));
  kick.Signal();
  for (uint32_t back = 0; back < kChains;) {
    for (; bench.driver.TakeUsed(&used); ++back)
      if (offered < kChains) bench.driver.Offer(static_cast<uint16_t>(used.head)), ++offered;
    if (bench.driver.WantsKick()) kick.Signal();
    if (back < kChains && !bench.driver.EnableInterrupts()) Await(irq);
  }
}

}  // namespace

int main() {
  Test("chains go round, also where indices wrap", GoesRound);
  Test("chains are given back in the order of their completion", GivesBackInAnyOrder);
  Test("chains that are given back untouched are taken again", FindsAgainWhatWasGivenBack);
  Test("a queue breaks if more is offered than it holds", BreaksIfTooManyAreOffered);
  Test("a queue breaks if a head is offered that is in flight", BreaksIfHeadIsInFlight);
  Test("a queue breaks if a head is beyond the table", BreaksIfHeadIsBeyond);
  Test("a queue breaks if a chain does", BreaksIfChainIsBad);
  Test("a broken queue stays so, and writes nothing", StaysBroken);
  Test("a size that is no power of two breaks a queue", RefusesSizes);
  Test("unaligned rings, and those not in RAM wholly, break a queue", RefusesRings);
  Test("a queue whose rings are no longer RAM breaks", SurvivesLossOfRam);
  Test("flags suppress kicks and interrupts", SuppressesByFlags);
  Test("an event index asks for interrupts, also across 2^16", InterruptsByEventIndex);
  Test("an event index asks for kicks, also across 2^16", AsksForKicksByEventIndex);
  Test("no notification is lost between two threads", [] { LosesNoNotification(false); });
  Test("none is lost with event indices", [] { LosesNoNotification(true); });
}
