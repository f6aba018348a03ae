#pragma once
#include <memory>

#include "../virtio/engine_queue.h"
#include "net_port.h"
#include "net_turn.h"

namespace vmm {

/// Frames from the guest to the tap. VIRTIO 1.2 §5.1.6.2. One thread's; holds no chain between two
/// rounds.
class NetTx {
 public:
  /// `limiter` is null without limits.
  NetTx(EngineQueue queue, std::shared_ptr<NetPort> port, std::shared_ptr<RateLimiter> limiter);

  /// Moves some frames. `has_tap` false: they are dropped, as by a card without a cable.
  [[nodiscard]] NetWait Round(bool has_tap);
  int frames() const { return frames_; }  // of the last round
  const NetTurn& turn() const { return turn_; }

  EngineQueue& queue() { return queue_; }
  [[nodiscard]] bool EnableKicks() { return queue_.queue->EnableKicks(); }
  bool HasChains() const { return queue_.queue->HasChains(); }

 private:
  NetWait SendNext(bool has_tap);
  NetWait Send(const Segments& frame);
  NetWait Break();

  EngineQueue queue_;
  const std::shared_ptr<NetPort> port_;
  NetTurn turn_;
  int frames_ = 0;
  Chain chain_;
};

}  // namespace vmm
