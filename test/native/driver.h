#pragma once
#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <memory>

#include "../../native/memory/guest_memory.h"
#include "../../native/virtio/chain.h"
#include "../../native/virtio/queue.h"
#include "check.h"

/// Guest RAM of 1 MiB from 0 on, and of 64 KiB after a hole of as much.
constexpr uint64_t kRamBytes = 1 << 20, kHoleBytes = 1 << 16, kHighBytes = 1 << 16;
constexpr uint64_t kHighGpa = kRamBytes + kHoleBytes;

inline std::shared_ptr<vmm::GuestMemory> MakeRam() {
  auto memory = std::make_shared<vmm::GuestMemory>();
  CHECK(memory->Add({0, kRamBytes}) == 0);
  CHECK(memory->Add({kHighGpa, kHighBytes}) == 0);
  return memory;
}

/// One buffer of a chain.
struct Buffer {
  uint64_t gpa;
  uint32_t len;
  bool writable = false;
};

struct Used {
  uint32_t head;
  uint32_t written;
};

/// The driver of a split virtqueue: it lays the rings out and plays by the rules, unless it is told
/// what is against them. VIRTIO 1.2 §2.7. Its accesses are ordered as a guest's barriers do. One
/// thread's, which need not be the device's.
class Driver {
 public:
  /// Places the rings from 64 KiB on, unless the options do.
  explicit Driver(std::shared_ptr<vmm::GuestMemory> memory, vmm::QueueOptions options)
      : memory_(std::move(memory)), options_(options), ram_(memory_->Snapshot()) {
    if (options_.avail_gpa != 0) return;  // the test has its own places
    options_.desc_gpa = 0x10000;
    options_.avail_gpa = options_.desc_gpa + uint64_t{16} * options_.size;
    options_.used_gpa = (options_.avail_gpa + 6 + uint64_t{2} * options_.size + 3) & ~uint64_t{3};
  }

  const vmm::QueueOptions& options() const { return options_; }
  vmm::Queue MakeQueue() const { return vmm::Queue(memory_, options_); }

  /// Host view of guest RAM, for what a test wants there.
  template <class T>
  T* At(uint64_t gpa) const {
    return reinterpret_cast<T*>(ram_->Contiguous(gpa, sizeof(T), true));
  }

  void Describe(uint16_t index, const vmm::Descriptor& descriptor) const {
    *At<vmm::Descriptor>(options_.desc_gpa + uint64_t{16} * index) = descriptor;
  }
  /// Descriptors from `head` on, each followed by the next.
  void DescribeChain(uint16_t head, std::initializer_list<Buffer> buffers) const {
    DescribeTable(options_.desc_gpa + uint64_t{16} * head, head, buffers);
  }
  /// The same at `table_gpa`, as an indirect table has them, with `head` describing it.
  void DescribeIndirect(uint16_t head, uint64_t table_gpa,
                        std::initializer_list<Buffer> buffers) const {
    DescribeTable(table_gpa, 0, buffers);
    Describe(head,
             {table_gpa, static_cast<uint32_t>(16 * buffers.size()), vmm::kDescriptorIndirect, 0});
  }

  /// Makes the chain at `head` available.
  void Offer(uint16_t head) {
    Ring(avail_idx_) = head;
    SetAvailIdx(static_cast<uint16_t>(avail_idx_ + 1));
  }
  void SetAvailIdx(uint16_t idx) {
    avail_idx_ = idx;
    std::atomic_ref(*At<uint16_t>(options_.avail_gpa + 2)).store(idx);
  }
  /// Whether the device wants a kick for what was offered since the last call. §2.7.10.
  bool WantsKick() {
    const auto from = std::exchange(kicked_idx_, avail_idx_);
    const uint64_t event_gpa = options_.used_gpa + 4 + uint64_t{8} * options_.size;
    if (!options_.event_idx) return (Peek(options_.used_gpa) & 1) == 0;
    const auto since_event = static_cast<uint16_t>(avail_idx_ - Peek(event_gpa) - 1);
    return since_event < static_cast<uint16_t>(avail_idx_ - from);
  }

  /// What the device gave back next. False if there is nothing.
  bool TakeUsed(Used* out) {
    if (Peek(options_.used_gpa + 2) == used_idx_) return false;
    *out = *At<Used>(options_.used_gpa + 4 + uint64_t{8} * (used_idx_++ % options_.size));
    return true;
  }
  /// Asks for an interrupt at the next chain that is given back, or for none. True if some were
  /// given back before the device could know: there is none for them.
  bool EnableInterrupts(bool enabled = true) {
    if (options_.event_idx)
      SetUsedEvent(static_cast<uint16_t>(enabled ? used_idx_ : used_idx_ - 1));
    else
      Poke(options_.avail_gpa, enabled ? 0 : 1);
    return Peek(options_.used_gpa + 2) != used_idx_;
  }

  /// The used entry at which the device is to interrupt next. §2.7.7.1.
  void SetUsedEvent(uint16_t event) const {
    Poke(options_.avail_gpa + 4 + uint64_t{2} * options_.size, event);
  }

 private:
  void DescribeTable(uint64_t gpa, uint16_t first, std::initializer_list<Buffer> buffers) const {
    auto index = first;
    for (const Buffer& buffer : buffers) {
      const bool last = &buffer + 1 == buffers.end();
      const int flags =
          (last ? 0 : vmm::kDescriptorNext) | (buffer.writable ? vmm::kDescriptorWrite : 0);
      *At<vmm::Descriptor>(gpa + uint64_t{16} * (index - first)) = {
          buffer.gpa, buffer.len, static_cast<uint16_t>(flags), static_cast<uint16_t>(index + 1)};
      ++index;
    }
  }
  uint16_t& Ring(uint16_t idx) const {
    return *At<uint16_t>(options_.avail_gpa + 4 + uint64_t{2} * (idx % options_.size));
  }
  uint16_t Peek(uint64_t gpa) const { return std::atomic_ref(*At<uint16_t>(gpa)).load(); }
  void Poke(uint64_t gpa, int value) const {
    std::atomic_ref(*At<uint16_t>(gpa)).store(static_cast<uint16_t>(value));
  }

  const std::shared_ptr<vmm::GuestMemory> memory_;
  vmm::QueueOptions options_;
  const std::shared_ptr<const vmm::Regions> ram_;
  uint16_t avail_idx_ = 0;
  uint16_t kicked_idx_ = 0;
  uint16_t used_idx_ = 0;
};
