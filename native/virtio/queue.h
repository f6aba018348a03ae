#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "../memory/dma_space.h"
#include "../memory/guest_memory.h"
#include "chain.h"

namespace vmm {

/// A split virtqueue as the driver set it up. VIRTIO 1.2 §2.7. Behind an IOMMU its addresses, and
/// those in it, are I/O virtual ones.
struct QueueOptions {
  uint16_t size = 0;       // a power of two up to 32768
  uint64_t desc_gpa = 0;   // 16-byte aligned
  uint64_t avail_gpa = 0;  // 2-byte aligned
  uint64_t used_gpa = 0;   // 4-byte aligned
  bool indirect = false;   // VIRTIO_F_INDIRECT_DESC was negotiated
  bool event_idx = false;  // VIRTIO_F_EVENT_IDX was negotiated
};

/// One of the rings, as the host sees it.
class RingView {
 public:
  static constexpr uint64_t kPageBytes = 4096;  // an IOMMU maps no less

  RingView() = default;
  explicit RingView(std::byte* base) : base_(base) {}
  /// Pages that an IOMMU has put side by side; the ring begins `skipped` bytes into the first.
  RingView(std::vector<std::byte*> pages, uint64_t skipped);

  bool ok() const { return base_ != nullptr; }
  /// What lies there, up to the next page.
  std::byte* At(size_t offset) const {
    if (pages_.empty()) [[likely]]
      return base_ + offset;
    return pages_[(skipped_ + offset) / kPageBytes] + (skipped_ + offset) % kPageBytes;
  }

 private:
  std::byte* base_ = nullptr;
  std::vector<std::byte*> pages_;  // empty if they follow each other here, too
  uint64_t skipped_ = 0;
};

/// The device's side of one split virtqueue.
///
/// Belongs to one thread at a time. Guest RAM is looked up anew in each batch, for it may change
/// between two: call Begin, then any of the rest. Once the driver has broken a rule the queue is
/// broken for good, and hands out nothing more.
///
/// Behind an IOMMU, what a chain points to stays mapped until the chain is completed or given back,
/// and the rings do until Begin finds that they are to be let go of, or LetGo: an unmapping waits
/// for that. Whoever serves the queue is kicked then.
class Queue {
 public:
  enum class Taken {
    kChain,
    kNone,
    kBroken,  // why, `fault()` says
  };

  /// `space` is of a device behind an IOMMU, else null.
  Queue(std::shared_ptr<const GuestMemory> memory, const QueueOptions& options,
        std::shared_ptr<const DmaSpace> space = nullptr);

  /// Takes a snapshot of RAM and finds the rings in it. False if they do not lie in RAM: the queue
  /// is broken. What Take hands out points into `regions()`: whoever keeps it, keeps that.
  [[nodiscard]] bool Begin();
  const std::shared_ptr<const Regions>& regions() const { return regions_; }
  /// Changes when Begin has found other RAM, or other mappings: chains that were taken before, and
  /// are not needed, are to go back.
  uint64_t epoch() const { return epoch_; }
  /// Whether the IOMMU asks for Begin to be called, though no chain may have come.
  bool IsStale() const { return space_ != nullptr && space_->generation() != generation_; }
  /// Nobody serves it for a while: no mapping is held for its rings before the next Begin.
  void LetGo();

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
  /// What holds its mappings for a chain.
  struct Held {
    std::shared_ptr<const IoAttachment> attachment;
    IoMappings mappings;
  };

  Taken Break(const char* fault);
  uint16_t AvailIdx() const;
  bool IsOpen() const { return fault_ == nullptr && avail_.ok() && used_.ok(); }
  void FindRingsBehindIommu();
  RingView FindRing(const DmaView& view, uint64_t iova, uint64_t len, bool writable) const;
  ChainStatus WalkBehindIommu(uint16_t head, Chain* chain);
  void Forget(uint16_t head);

  const std::shared_ptr<const GuestMemory> memory_;
  const QueueOptions options_;
  const std::shared_ptr<const DmaSpace> space_;
  std::shared_ptr<const Regions> regions_;
  RingView avail_;  // of the snapshot in regions_
  RingView used_;
  uint64_t epoch_ = 0;
  uint64_t generation_ = UINT64_MAX;  // of space_, when its rings were found
  Held rings_;
  std::vector<Held> held_;  // by head; none without an IOMMU
  const char* fault_ = nullptr;
  uint16_t next_avail_ = 0;
  uint16_t next_used_ = 0;
  uint16_t published_used_ = 0;
  uint16_t in_flight_count_ = 0;
  std::vector<bool> in_flight_;  // by head: one that is offered twice would be freed twice
};

}  // namespace vmm
