#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block_queue.h"
#include "engine.h"

namespace vmm {

/// What a block engine needs to know, with nothing left to decide.
struct BlockOptions {
  std::string id;  // the thread of queue n is called `${id}_q${n}`
  std::shared_ptr<DiskImage> image;
  bool readonly = false;
  bool writeback = true;
  bool discard = false;
  bool keep_raw = false;
  std::string serial;
  IoKind io = IoKind::kIoUring;
  std::vector<std::vector<uint32_t>> host_cpus;  // by queue
  std::shared_ptr<RateLimiter> limiter;          // null without limits
  std::shared_ptr<BlockCounters> counters = std::make_shared<BlockCounters>();
  std::function<void(const std::string& message)> on_error;
};

/// The data plane of a disk, src/devices/virtio/block.ts: a thread a queue.
class BlockEngine : public Engine {
 public:
  explicit BlockEngine(const BlockOptions& options);

  /// Queue n is `queues[n]`; the driver need not have set up all of them. 0 or a negative errno:
  /// then some may be served, until Stop.
  int Start(std::vector<std::optional<EngineQueue>> queues);
  /// Any thread. Of requests that come after it.
  void SetWriteback(bool on) { disk_->writeback.store(on); }

 private:
  const std::string id_;
  const IoKind io_;
  const std::vector<std::vector<uint32_t>> host_cpus_;
  const std::shared_ptr<BlockDisk> disk_ = std::make_shared<BlockDisk>();
};

}  // namespace vmm
