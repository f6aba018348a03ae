#include <unistd.h>

#include <deque>
#include <random>
#include <thread>

#include "../../native/engines/net.h"
#include "flag.h"
#include "net_guest.h"

namespace {

constexpr uint16_t kRing = 32;
constexpr uint32_t kRoomBytes = 1024;
constexpr uint32_t kSlotBytes = 4096;  // of a room or a frame: an IOMMU maps no less
constexpr size_t kPayloadMax = 3000;
/// Rooms that take the largest frame.
constexpr size_t kRoomsNeeded = (kHeaderBytes + kPayloadMax + kRoomBytes - 1) / kRoomBytes;
/// None is dropped, so what does not come in time was forgotten.
constexpr int64_t kPatienceNs = 60'000'000'000;

using Random = std::minstd_rand;
uint32_t Draw(Random* random, uint32_t end) { return static_cast<uint32_t>((*random)() % end); }

struct Kind {
  bool event_idx;
  /// Each wakes everybody, which would hide that somebody was forgotten.
  bool pauses = false;
  std::shared_ptr<vmm::RateLimiter> tx_limiter = nullptr;
  uint32_t frames = 2000;
  bool behind_iommu = false;
};

/// Where a buffer is mapped, as far from itself as the first byte of RAM from this.
constexpr uint64_t kIova = uint64_t{1} << 32;

/// A domain with the rings where they lie, and each buffer mapped as long as the device has it.
class Iommu {
 public:
  Iommu() {
    space->Attach(domain_, false, nullptr);
    limits_->last = UINT64_MAX;
    limits_->reserved_first = limits_->reserved_last = UINT64_MAX;
    limits_->mappings_max = SIZE_MAX;
    CHECK(domain_->Map({0, NetGuest::kRx - 1, 0, kRead | kWrite}) == vmm::IoStatus::kOk);
  }
  uint64_t Map(uint64_t gpa, uint64_t bytes, bool writable) const {
    const uint32_t flags = writable ? kWrite : kRead;
    const auto status = domain_->Map({kIova + gpa, kIova + gpa + bytes - 1, gpa, flags});
    CHECK(status == vmm::IoStatus::kOk);
    return kIova + gpa;
  }
  /// What the device has given back it does not hold.
  void Unmap(uint64_t gpa, uint64_t bytes) const {
    const auto drain = std::make_shared<vmm::Drain>([] {});
    CHECK(domain_->Unmap(kIova + gpa, kIova + gpa + bytes - 1, drain).count == 1);
    CHECK(drain.use_count() == 1);
  }

  const std::shared_ptr<vmm::DmaSpace> space = std::make_shared<vmm::DmaSpace>();

 private:
  static constexpr uint32_t kRead = 1, kWrite = 2;

  const std::shared_ptr<vmm::IoLimits> limits_ = std::make_shared<vmm::IoLimits>();
  const std::shared_ptr<vmm::IoDomain> domain_ = std::make_shared<vmm::IoDomain>(limits_);
};

/// A driver that sends frames, gets each back, and offers rooms when it likes; before it sleeps it
/// has asked for all interrupts, and offered enough rooms for the next frame.
class Echoed {
 public:
  Echoed(const Kind& kind, uint32_t seed)
      : iommu_(kind.behind_iommu ? std::make_unique<Iommu>() : nullptr),
        guest_(kind.event_idx, kRing, iommu_ != nullptr ? iommu_->space : nullptr),
        frames_left_(kind.frames),
        random_(seed) {
    for (uint16_t head = 0; head < kRing; ++head) {
      rooms_.push_back(head);
      frames_.push_back(head);
    }
  }
  NetGuest& guest() { return guest_; }

  void Run() {
    while (frames_left_ > 0 || received_ < sent_) {
      guest_.rx.driver().EnableInterrupts(false);
      guest_.tx.driver().EnableInterrupts(false);
      for (uint32_t i = Draw(&random_, 4); i > 0; --i) Act();
      if (iommu_ != nullptr && Draw(&random_, 8) == 0) ChangeElsewhere();
      Sleep();
    }
  }

 private:
  void Act() {
    switch (Draw(&random_, 4)) {
      case 0:
        return Offer(Draw(&random_, 3));
      case 1:
        return Send();
      case 2:
        return TakeSent();
      default:
        return Receive();
    }
  }

  /// Something else is unmapped that was in use: whoever has this space is to look.
  void ChangeElsewhere() {
    iommu_->space->MoveOn();
    guest_.rx.kick().Signal();
    guest_.tx.kick().Signal();
  }
  uint64_t Map(uint64_t gpa, size_t bytes, bool writable) const {
    return iommu_ != nullptr ? iommu_->Map(gpa, bytes, writable) : gpa;
  }
  void Unmap(uint64_t gpa, size_t bytes) const {
    if (iommu_ != nullptr) iommu_->Unmap(gpa, bytes);
  }

  void Offer(size_t count) {
    for (; count > 0 && !rooms_.empty(); --count, rooms_.pop_front()) {
      const uint16_t head = rooms_.front();
      const uint64_t room = Map(NetGuest::kRx + head * kSlotBytes, kSlotBytes, true);
      guest_.rx.Offer(head, {{room, kRoomBytes, true}});
      if (Draw(&random_, 2) == 0) guest_.rx.Kick();
    }
    guest_.rx.Kick();
  }
  void Send() {
    // Few at a time: whoever is busy anyway finds what was forgotten.
    const uint32_t out_max = 1 + Draw(&random_, 4);
    for (; frames_left_ > 0 && !frames_.empty() && sent_ - received_ < out_max; --frames_left_) {
      const Bytes frame = Frame(1 + Draw(&random_, kPayloadMax), static_cast<uint8_t>(++sent_));
      const uint64_t gpa = NetGuest::kTx + frames_.front() * kSlotBytes;
      guest_.Write(gpa, frame);
      const uint64_t at = Map(gpa, kSlotBytes, false);
      guest_.tx.Offer(frames_.front(), {{at, static_cast<uint32_t>(frame.size())}});
      guest_.tx.Kick();
      frames_.pop_front();
    }
  }
  void TakeSent() {
    for (Used used{}; guest_.tx.TakeUsed(&used);) {
      Unmap(NetGuest::kTx + used.head * kSlotBytes, kSlotBytes);
      frames_.push_back(static_cast<uint16_t>(used.head));
    }
  }
  void Receive() {
    for (Used used{}; guest_.rx.TakeUsed(&used);) {
      Unmap(NetGuest::kRx + used.head * kSlotBytes, kSlotBytes);
      rooms_.push_back(static_cast<uint16_t>(used.head));
      if (buffers_ == 0) {
        const Bytes start = guest_.Read(NetGuest::kRx + used.head * kSlotBytes, kHeaderBytes + 1);
        buffers_ = start[10];
        CHECK(start[kHeaderBytes] == static_cast<uint8_t>(received_ + 1));
      }
      if (--buffers_ == 0) ++received_;
    }
  }

  void Sleep() {
    Offer(rooms_.size() > kRing - kRoomsNeeded ? kRoomsNeeded : 0);
    const bool more_received = guest_.rx.driver().EnableInterrupts();
    const bool more_sent = guest_.tx.driver().EnableInterrupts();
    if (more_received || more_sent || received_ == sent_) return;
    pollfd irqs[] = {{guest_.rx.queue().irq->get(), POLLIN, 0},
                     {guest_.tx.queue().irq->get(), POLLIN, 0}};
    CHECK(poll(irqs, 2, kTimeoutMs) > 0);
    if (irqs[0].revents != 0) guest_.rx.queue().irq->Take();
    if (irqs[1].revents != 0) guest_.tx.queue().irq->Take();
  }

  const std::unique_ptr<const Iommu> iommu_;  // null: there is none
  NetGuest guest_;
  uint32_t frames_left_;  // to be sent
  Random random_;
  std::deque<uint16_t> rooms_, frames_;  // that are not out
  uint32_t sent_ = 0, received_ = 0;
  uint16_t buffers_ = 0;  // of a frame, that have not come yet
};

/// Sends back what it gets, until it has all.
void Echo(const FakeTap& tap, uint32_t frames, uint32_t seed) {
  Random random(seed);
  for (uint32_t i = 0; i < frames; ++i) {
    const Bytes frame = tap.Get();
    if (Draw(&random, 64) == 0) usleep(Draw(&random, 1000));
    tap.PutWhenItCan(frame);
  }
}

void ForgetsNobody(const Kind& kind, uint32_t seed) {
  const FakeTap tap;
  Echoed driver(kind, seed);
  vmm::NetOptions options;
  options.id = "_net1";
  options.taps = {tap.fd()};
  options.rx = {true, kHeaderBytes + kPayloadMax, kPatienceNs};
  options.tx_limiter = kind.tx_limiter;
  vmm::NetEngine engine(options);
  CHECK(engine.Start({driver.guest().rx.queue(), driver.guest().tx.queue()}) == 0);
  std::atomic<bool> done = false;
  std::thread host([&] { Echo(tap, kind.frames, seed + 1); });
  std::thread guest([&] {
    driver.Run();
    done = true;
  });

  Random random(seed + 2);
  while (kind.pauses && !done) {
    usleep(Draw(&random, 5000));
    Flag parked;
    engine.Pause(parked.Setter());
    CHECK(parked.Await());
    engine.Resume();
  }
  guest.join();
  host.join();
  Flag ended;
  engine.Stop(ended.Setter());
  CHECK(ended.Await());
}

std::shared_ptr<vmm::RateLimiter> FramesEach(uint64_t ms) {
  return std::make_shared<vmm::RateLimiter>(vmm::TokenBucketOptions{},
                                            vmm::TokenBucketOptions{1, ms});
}

}  // namespace

int main() {
  Test("of thousands of frames none is left lying, however driver and host interleave", [] {
    for (const bool event_idx : {false, true}) ForgetsNobody({event_idx}, 1);
  });
  Test("nor for pauses", [] {
    for (const bool event_idx : {false, true}) ForgetsNobody({event_idx, true}, 2);
  });
  Test("nor for an IOMMU, by which each buffer is mapped alone", [] {
    for (const bool pauses : {false, true})
      for (const bool event_idx : {false, true})
        ForgetsNobody({event_idx, pauses, nullptr, 2000, true}, 4);
  });
  Test("nor for a limit", [] {
    for (const bool event_idx : {false, true})
      ForgetsNobody({event_idx, false, FramesEach(5), 200}, 3);
  });
}
