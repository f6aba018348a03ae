#pragma once
#include <memory>
#include <utility>

#include "../../native/virtio/engine_queue.h"
#include "ring_input.h"

/// The driver's side of one ring, which it may corrupt. The three parts lie in 0x300 bytes from
/// `gpa` on, of up to 16 entries.
class Ring {
 public:
  Ring(std::shared_ptr<vmm::GuestMemory> memory, uint64_t gpa, uint16_t size,
       bool event_idx = false)
      : memory_(std::move(memory)), options_{size,        gpa,   gpa + 0x100,
                                             gpa + 0x180, false, event_idx} {}

  vmm::EngineQueue Device(const std::shared_ptr<vmm::EventFd>& event) const {
    return {std::make_shared<vmm::Queue>(memory_, options_), event, event, [](const char*) {}};
  }
  void Describe(uint16_t index, const vmm::Descriptor& descriptor) const {
    Write(options_.desc_gpa + uint64_t{16} * index, descriptor);
  }
  void Offer(uint16_t head) {
    Write(options_.avail_gpa + 4 + uint64_t{2} * (avail_idx_++ % options_.size), head);
    Write(options_.avail_gpa + 2, avail_idx_);
  }
  void Corrupt(FuzzedDataProvider* input) {
    Describe(input->ConsumeIntegralInRange<uint16_t>(0, options_.size - 1),
             DrawDescriptor(input, 0, options_.size));
    if (Rarely(input)) avail_idx_ = input->ConsumeIntegral<uint16_t>();
  }
  /// What came back next. False if there is nothing.
  bool TakeUsed(uint32_t entry[2]) {
    uint16_t idx = 0;
    Read(options_.used_gpa + 2, &idx);
    if (idx == used_idx_) return false;
    const uint64_t at = options_.used_gpa + 4 + uint64_t{8} * (used_idx_++ % options_.size);
    Read(at, &entry[0]);
    Read(at + 4, &entry[1]);
    return true;
  }

 private:
  template <class T>
  void Write(uint64_t gpa, const T& value) const {
    HOLDS(memory_->CopyIn(gpa, &value, sizeof(value)) == 0);
  }
  template <class T>
  void Read(uint64_t gpa, T* value) const {
    HOLDS(memory_->CopyOut(gpa, value, sizeof(*value)) == 0);
  }

  const std::shared_ptr<vmm::GuestMemory> memory_;
  const vmm::QueueOptions options_;
  uint16_t avail_idx_ = 0, used_idx_ = 0;
};
