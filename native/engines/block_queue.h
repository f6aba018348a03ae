#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../disk/disk_image.h"
#include "../sys/host_cpus.h"
#include "../virtio/engine_queue.h"
#include "block_counters.h"
#include "block_request.h"
#include "busy_poll.h"
#include "direct_io.h"
#include "engine.h"
#include "file_io.h"
#include "first_sector.h"
#include "rate_limiter.h"
#include "transfer.h"

namespace vmm {

/// A disk, as its queues share it.
struct BlockDisk {
  std::shared_ptr<DiskImage> image;
  BlockLimits limits;
  /// The first sector must not become the header of another image format.
  bool keep_raw = false;
  std::string serial;  // at most VIRTIO_BLK_ID_BYTES
  /// False: a write is on stable storage before it is completed. VIRTIO 1.2 §5.2.5.2: what counts
  /// is how it stood when the request was submitted.
  std::atomic<bool> writeback = true;
  std::shared_ptr<RateLimiter> limiter;  // null without limits
  std::shared_ptr<BlockCounters> counters = std::make_shared<BlockCounters>();
  std::shared_ptr<BlockLock> lock = std::make_shared<BlockLock>();
  /// Any thread. An operation on the file failed; called for the first of a burst.
  std::function<void(const std::string& message)> on_error;
  std::atomic<int64_t> quiet_until_ms = 0;  // on the monotonic clock
};

/// Serves the requests of one queue. VIRTIO 1.2 §5.2.6.
class BlockQueue final : public EngineWork {
 public:
  /// Called on the thread, with how many operations there are at most.
  using OpenIo = std::function<std::unique_ptr<FileIo>(uint16_t depth)>;

  /// `number` is the queue's among those of the disk.
  BlockQueue(EngineQueue queue, std::shared_ptr<BlockDisk> disk, OpenIo open_io, size_t number = 0);
  ~BlockQueue() override;
  BlockQueue(const BlockQueue&) = delete;
  BlockQueue& operator=(const BlockQueue&) = delete;

  void Serve(const std::atomic<bool>& leave) override;
  void Wake() override { queue_.kick->Signal(); }

 private:
  /// A request that is in flight, or waits.
  struct Slot {
    uint16_t head = 0;
    BlockRequest request;
    Transfer transfer;
    uint64_t moving_bytes = 0;  // of moving_bytes_
    int64_t begun_ns = 0;
    std::shared_ptr<const Regions> regions;     // that the request points into
    std::unique_ptr<FirstSector> first_sector;  // of a write to it
  };

  bool HasRoom() const;
  bool IsIdle() const { return free_.size() + waiting_.size() == slots_.size(); }
  bool ServeBatch(const std::atomic<bool>& leave);
  void TakeChains(const std::atomic<bool>& leave);
  bool TakeChain();
  void PollForChain(const std::atomic<bool>& leave);
  void Break();
  void Start(uint32_t slot);
  bool MustWait(uint32_t slot);
  void BeginHeld();
  void GiveBackHeld();
  void Begin(uint32_t slot);
  void Charge(Slot* slot, uint64_t moving_bytes);
  bool MayWrite(Slot* slot) const;
  void GoOn(uint32_t slot, Transfer::Step step);
  void TryWaiting();
  void Count(const Slot& slot);
  void Answer(Slot* slot, uint8_t status);
  void Free(Slot* slot);
  void Publish();
  void Report(const Slot& slot);
  int64_t NowNs();

  const EngineQueue queue_;
  const std::shared_ptr<BlockDisk> disk_;
  const OpenIo open_io_;
  BlockCounters::Queue* const counters_;  // of the disk's
  std::unique_ptr<FileIo> io_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;     // the last that was used is the first that is used again
  std::vector<uint32_t> waiting_;  // for another write, or for a resume
  std::vector<FileIo::Done> done_;
  std::optional<uint32_t> held_;  // the newest chain, whose turn has not come; none is taken then
  int64_t turn_ns_ = 0;           // of that
  int64_t now_ns_ = 0;            // of this round; 0 until somebody asks
  uint64_t moving_bytes_ = 0;     // that requests have under way at most
  uint32_t started_ = 0;          // since the last Run
  uint32_t finished_ = 0;         // by the last Run
  BusyPoll busy_poll_{UsableCpus()};
  bool broken_ = false;
  const std::atomic<bool>* leave_ = nullptr;  // Serve's
  Chain chain_;
};

}  // namespace vmm
