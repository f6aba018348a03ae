#pragma once
#include <linux/virtio_blk.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "../../native/virtio/engine_queue.h"
#include "driver.h"

/// The guest's side of one queue of a disk, on the test's thread.
class BlockGuest {
 public:
  static constexpr uint64_t kDataGpa = 0x40000;    // what the tests use
  static constexpr uint64_t kHeaderGpa = 0x20000;  // of the request that Do makes
  static constexpr uint64_t kHeaderBytes = sizeof(virtio_blk_outhdr);
  static constexpr uint8_t kNoStatus = 0xee;
  static constexpr int kTimeoutMs = 10'000;

  explicit BlockGuest(uint16_t size = 64, bool event_idx = true,
                      const std::shared_ptr<const vmm::DmaSpace>& space = nullptr)
      : driver_(memory_, {size, 0, 0, 0, false, event_idx}),
        queue_(std::make_shared<vmm::Queue>(memory_, driver_.options(), space)) {
    for (uint16_t i = size; i > 0; --i) free_.push_back(static_cast<uint16_t>(i - 1));
  }

  vmm::EngineQueue queue() {
    return {queue_, kick_, irq_, [this](const char* fault) { fault_.store(fault); }};
  }
  const char* fault() const { return fault_.load(); }
  Driver& driver() { return driver_; }
  const vmm::EventFd& kick() const { return *kick_; }

  uint8_t* At(uint64_t gpa) const { return driver_.At<uint8_t>(gpa); }
  void Fill(uint64_t gpa, uint8_t value, size_t count) const { std::memset(At(gpa), value, count); }
  bool Holds(uint64_t gpa, uint8_t value, size_t count) const {
    return std::all_of(At(gpa), At(gpa) + count, [value](uint8_t byte) { return byte == value; });
  }

  /// Makes a request available: a header at `gpa`, data, and the status behind the header.
  /// Returns its head.
  uint16_t Request(uint32_t type, uint64_t sector, std::vector<Buffer> data,
                   uint64_t gpa = kHeaderGpa) {
    const virtio_blk_outhdr header{type, 0, sector};
    std::memcpy(At(gpa), &header, sizeof(header));
    *At(gpa + kHeaderBytes) = kNoStatus;
    data.insert(data.begin(), {gpa, kHeaderBytes});
    data.push_back({gpa + kHeaderBytes, 1, true});
    return Offer(data);
  }
  uint16_t Offer(const std::vector<Buffer>& buffers) {
    CHECK(buffers.size() <= free_.size());
    const std::vector<uint16_t> chain(free_.end() - static_cast<ptrdiff_t>(buffers.size()),
                                      free_.end());
    free_.resize(free_.size() - chain.size());
    for (size_t i = 0; i < chain.size(); ++i) {
      const bool last = i + 1 == chain.size();
      const int flags =
          (buffers[i].writable ? vmm::kDescriptorWrite : 0) | (last ? 0 : vmm::kDescriptorNext);
      driver_.Describe(chain[i], {buffers[i].gpa, buffers[i].len, static_cast<uint16_t>(flags),
                                  last ? uint16_t{0} : chain[i + 1]});
    }
    driver_.Offer(chain[0]);
    const uint16_t head = chain[0];
    chains_[head] = chain;
    return head;
  }
  uint8_t Status(uint64_t gpa = kHeaderGpa) const { return *At(gpa + kHeaderBytes); }

  /// Kicks, if the device wants it for what was offered since the last time.
  void Kick() {
    if (!driver_.WantsKick()) return;
    ++kicks;
    kick_->Signal();
  }

  /// What the device has given back, in its order. Waits for one at least; none if none comes.
  std::vector<Used> Await(int timeout_ms = kTimeoutMs) {
    std::vector<Used> all = TakeUsed();
    while (all.empty()) {
      if (!driver_.EnableInterrupts()) {
        pollfd irq{irq_->get(), POLLIN, 0};
        if (poll(&irq, 1, timeout_ms) != 1) return {};
        interrupts += irq_->Take() ? 1 : 0;
      }
      all = TakeUsed();
    }
    return all;
  }
  /// Kicks and waits until all that was offered is given back.
  std::vector<Used> Finish() {
    Kick();
    std::vector<Used> all;
    while (!chains_.empty()) {
      const std::vector<Used> some = Await();
      CHECK(!some.empty());
      all.insert(all.end(), some.begin(), some.end());
    }
    return all;
  }
  /// One request from beginning to end. Returns its status.
  uint8_t Do(uint32_t type, uint64_t sector, const std::vector<Buffer>& data) {
    Request(type, sector, data);
    written = Finish().back().written;
    return Status();
  }

  uint32_t written = 0;  // of the last Do
  uint32_t kicks = 0;
  uint32_t interrupts = 0;

 private:
  std::vector<Used> TakeUsed() {
    std::vector<Used> all;
    for (Used used; driver_.TakeUsed(&used); all.push_back(used)) {
      const auto chain = chains_.extract(static_cast<uint16_t>(used.head));
      CHECK(!chain.empty());
      free_.insert(free_.end(), chain.mapped().begin(), chain.mapped().end());
    }
    return all;
  }

  const std::shared_ptr<vmm::GuestMemory> memory_ = MakeRam();
  Driver driver_;
  const std::shared_ptr<vmm::Queue> queue_;
  const std::shared_ptr<vmm::EventFd> kick_ = std::make_shared<vmm::EventFd>();
  const std::shared_ptr<vmm::EventFd> irq_ = std::make_shared<vmm::EventFd>();
  std::vector<uint16_t> free_;                        // descriptors
  std::map<uint16_t, std::vector<uint16_t>> chains_;  // that the device has, by head
  std::atomic<const char*> fault_ = nullptr;
};
