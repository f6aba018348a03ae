#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "../memory/guest_memory.h"
#include "chain.h"

namespace vmm {

/// A split virtqueue as the driver set it up. VIRTIO 1.2 §2.7.
struct QueueOptions {
  uint16_t size = 0;       // a power of two up to 32768
  uint64_t desc_gpa = 0;   // 16-byte aligned
  uint64_t avail_gpa = 0;  // 2-byte aligned
  uint64_t used_gpa = 0;   // 4-byte aligned
  bool indirect = false;   // VIRTIO_F_INDIRECT_DESC was negotiated
  bool event_idx = false;  // VIRTIO_F_EVENT_IDX was negotiated
};

/// The device's side of one split virtqueue.
///
/// Belongs to one thread at a time. Guest RAM is looked up anew in each batch, for it may change
/// between two: call Begin, then any of the rest. Once the driver has broken a rule the queue is
/// broken for good, and hands out nothing more.
class Queue {
 public:
  enum class Taken {
    kChain,
    kNone,
    kBroken,  // why, `fault()` says
  };

  Queue(std::shared_ptr<const GuestMemory> memory, const QueueOptions& options);

  /// Takes a snapshot of RAM and finds the rings in it. False if they do not lie in RAM: the queue
  /// is broken. What Take hands out points into `regions()`: whoever keeps it, keeps that.
  [[nodiscard]] bool Begin();
  const std::shared_ptr<const Regions>& regions() const { return regions_; }

  /// The next chain that the driver made available, checked wholly.
  Taken Take(Chain* chain, uint16_t* head);
  /// Gives back the chain that was taken at `head`, `written` bytes of it filled. The driver sees
  /// it after Publish. A broken queue only counts it.
  void Complete(uint16_t head, uint32_t written);
  /// Gives back the chains that were taken last, oldest first, as if they had not been: Take finds
  /// them again. None that was taken after them may be out or completed.
  void GiveBack(std::span<const uint16_t> heads);
  /// Shows the driver all that was completed. True if it wants an interrupt for that. §2.7.7.
  [[nodiscard]] bool Publish();

  /// Asks the driver not to kick, or to kick again. With EVENT_IDX there is nothing to do for the
  /// first: an event index that lags behind asks for none.
  void DisableKicks();
  /// True if chains came in before the driver could know: they will not be kicked for. §2.7.10.
  [[nodiscard]] bool EnableKicks();
  /// Whether Take would find any.
  bool HasChains() const;

  uint16_t in_flight_count() const { return in_flight_count_; }
  /// The rule that was broken, null if none.
  const char* fault() const { return fault_; }
  uint16_t size() const { return options_.size; }
  const QueueOptions& options() const { return options_; }

 private:
  Taken Break(const char* fault);
  uint16_t AvailIdx() const;

  const std::shared_ptr<const GuestMemory> memory_;
  const QueueOptions options_;
  std::shared_ptr<const Regions> regions_;
  std::byte* avail_ = nullptr;  // of the snapshot in regions_
  std::byte* used_ = nullptr;
  const char* fault_ = nullptr;
  uint16_t next_avail_ = 0;
  uint16_t next_used_ = 0;
  uint16_t published_used_ = 0;
  uint16_t in_flight_count_ = 0;
  std::vector<bool> in_flight_;  // by head: one that is offered twice would be freed twice
};

}  // namespace vmm
