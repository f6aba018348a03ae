#pragma once
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../../native/virtio/engine_queue.h"
#include "check.h"

/// The driver of one queue of a disk, on the test's thread.
class BlockGuest {
 public:
  static constexpr uint64_t kRamBytes = 8 << 20;
  static constexpr uint64_t kDescGpa = 0x1000, kAvailGpa = 0x9000, kUsedGpa = 0xb000;
  static constexpr uint64_t kDataGpa = 0x100000;  // the tests' own from here on

  struct Piece {
    uint64_t gpa;
    uint32_t len;
    bool writable;
  };
  struct Used {
    uint32_t head;
    uint32_t written;
  };

  explicit BlockGuest(uint16_t size = 64, bool event_idx = true)
      : size_(size), event_idx_(event_idx) {
    CHECK(memory_->Add({0, kRamBytes}) == 0);
    ram_ = memory_->Snapshot()->Contiguous(0, kRamBytes);
    for (uint16_t i = 0; i < size; ++i) free_.push_back(static_cast<uint16_t>(size - 1 - i));
    vmm::QueueOptions options{size, kDescGpa, kAvailGpa, kUsedGpa, false, event_idx};
    queue_ = std::make_shared<vmm::Queue>(memory_, options);
  }

  vmm::EngineQueue queue() {
    return {queue_, kick_, irq_, [this](const char* fault) { fault_.store(fault); }};
  }
  const char* fault() const { return fault_.load(); }

  std::byte* at(uint64_t gpa) const { return ram_ + gpa; }
  void Fill(uint64_t gpa, uint8_t value, size_t count) const { std::memset(at(gpa), value, count); }
  bool Holds(uint64_t gpa, uint8_t value, size_t count) const {
    for (size_t i = 0; i < count; ++i)
      if (std::to_integer<uint8_t>(ram_[gpa + i]) != value) return false;
    return true;
  }

  /// Makes a chain available, without a kick. Returns its head.
  uint16_t Offer(const std::vector<Piece>& pieces) {
    CHECK(pieces.size() <= free_.size());
    std::vector<uint16_t> taken;
    for (size_t i = 0; i < pieces.size(); ++i) taken.push_back(free_.back()), free_.pop_back();
    for (size_t i = 0; i < pieces.size(); ++i) {
      const bool last = i + 1 == pieces.size();
      const auto flags = static_cast<uint16_t>((pieces[i].writable ? vmm::kDescriptorWrite : 0) |
                                               (last ? 0 : vmm::kDescriptorNext));
      const vmm::Descriptor desc{pieces[i].gpa, pieces[i].len, flags,
                                 last ? uint16_t{0} : taken[i + 1]};
      std::memcpy(at(kDescGpa + 16ULL * taken[i]), &desc, sizeof(desc));
    }
    OfferHead(taken[0]);
    chains_[taken[0]] = taken;
    return taken[0];
  }
  void OfferHead(uint16_t head) {
    Word(kAvailGpa + 4 + 2ULL * (avail_ % size_)).store(head, std::memory_order_relaxed);
    Word(kAvailGpa + 2).store(++avail_, std::memory_order_release);
  }

  /// Kicks if the device wants it for what was offered since the last time.
  void Kick() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    bool wanted = (Word(kUsedGpa).load() & 1) == 0;
    if (event_idx_) {
      const uint16_t event = Word(kUsedGpa + 4 + 8ULL * size_).load();
      wanted = static_cast<uint16_t>(avail_ - event - 1) < static_cast<uint16_t>(avail_ - kicked_);
    }
    kicked_ = avail_;
    if (!wanted) return;
    ++kicks;
    kick_->Signal();
  }

  /// A header at `gpa`, data and a status byte behind the header.
  uint16_t Request(uint32_t type, uint64_t sector, std::vector<Piece> data, uint64_t gpa) {
    const virtio_blk_outhdr header{type, 0, sector};
    std::memcpy(at(gpa), &header, sizeof(header));
    Fill(gpa + sizeof(header), kNoStatus, 1);
    data.insert(data.begin(), {gpa, sizeof(header), false});
    data.push_back({gpa + sizeof(header), 1, true});
    return Offer(data);
  }
  uint8_t Status(uint64_t gpa) const {
    return std::to_integer<uint8_t>(ram_[gpa + sizeof(virtio_blk_outhdr)]);
  }
  static constexpr uint8_t kNoStatus = 0xee;

  /// What is used already, freed.
  std::vector<Used> TakeUsed() {
    std::vector<Used> taken;
    for (; used_ != Word(kUsedGpa + 2).load(std::memory_order_acquire); ++used_) {
      Used used;
      std::memcpy(&used, at(kUsedGpa + 4 + 8ULL * (used_ % size_)), sizeof(used));
      taken.push_back(used);
      const auto chain = chains_.extract(static_cast<uint16_t>(used.head));
      if (!chain.empty()) free_.insert(free_.end(), chain.mapped().rbegin(), chain.mapped().rend());
    }
    return taken;
  }
  /// The same, after waiting for at least one. Nothing if none comes within `timeout_ms`.
  std::vector<Used> AwaitUsed(int timeout_ms = 10'000) {
    for (;;) {
      std::vector<Used> taken = TakeUsed();
      if (!taken.empty()) return taken;
      if (event_idx_) Word(kAvailGpa + 4 + 2ULL * size_).store(used_);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      if (Word(kUsedGpa + 2).load() != used_) continue;
      pollfd irq{irq_->get(), POLLIN, 0};
      if (poll(&irq, 1, timeout_ms) != 1) return {};
      interrupts += irq_->Take() ? 1 : 0;
    }
  }
  /// Kicks and waits until everything offered is used.
  std::vector<Used> Finish() {
    Kick();
    std::vector<Used> all;
    while (!chains_.empty()) {
      const std::vector<Used> some = AwaitUsed();
      CHECK(!some.empty());
      all.insert(all.end(), some.begin(), some.end());
    }
    return all;
  }
  /// One request from beginning to end. Returns its status.
  uint8_t Do(uint32_t type, uint64_t sector, const std::vector<Piece>& data) {
    Request(type, sector, data, 0x80000);
    written = Finish().back().written;
    return Status(0x80000);
  }

  uint32_t written = 0;  // of the last Do
  uint32_t kicks = 0, interrupts = 0;

 private:
  std::atomic_ref<uint16_t> Word(uint64_t gpa) const {
    return std::atomic_ref(*reinterpret_cast<uint16_t*>(ram_ + gpa));
  }

  const uint16_t size_;
  const bool event_idx_;
  const std::shared_ptr<vmm::GuestMemory> memory_ = std::make_shared<vmm::GuestMemory>();
  const std::shared_ptr<vmm::EventFd> kick_ = std::make_shared<vmm::EventFd>();
  const std::shared_ptr<vmm::EventFd> irq_ = std::make_shared<vmm::EventFd>();
  std::shared_ptr<vmm::Queue> queue_;
  std::byte* ram_ = nullptr;
  std::vector<uint16_t> free_;
  std::map<uint16_t, std::vector<uint16_t>> chains_;  // by head: their descriptors
  uint16_t avail_ = 0, kicked_ = 0, used_ = 0;
  std::atomic<const char*> fault_ = nullptr;
};
