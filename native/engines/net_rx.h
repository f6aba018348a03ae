#pragma once
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "../base/clock.h"
#include "../virtio/engine_queue.h"
#include "net_port.h"
#include "net_turn.h"

namespace vmm {

struct NetRxOptions {
  /// VIRTIO_NET_F_MRG_RXBUF was negotiated: a frame may lie in several chains.
  bool merge = false;
  /// The most that the tap may hand over as one frame, with the header.
  uint32_t frame_bytes_max = 0;
  /// How long a frame waits that needs more chains than the driver has made available, and all
  /// others behind it. A driver of a small ring may see no reason to add any.
  int64_t patience_ns = 100'000'000;
  std::shared_ptr<RateLimiter> limiter = nullptr;  // null without limits
};

/// Frames from the tap to the guest. VIRTIO 1.2 §5.1.6.4. One thread's. The chains that a frame may
/// need are many, and most frames need one: they are taken ahead, and stay out until Leave.
class NetRx {
 public:
  NetRx(EngineQueue queue, std::shared_ptr<NetPort> port, const NetRxOptions& options);

  /// Moves some frames.
  [[nodiscard]] NetWait Round();
  /// Gives back what is out.
  void Leave();
  /// Leave, and nothing of guest RAM is held before the next Round.
  void Rest();
  int frames() const { return frames_; }  // of the last round
  const NetTurn& turn() const { return turn_; }
  /// When the frame that waits for the driver does so no longer, on the steady clock.
  std::optional<int64_t> aside_until_ns() const {
    return aside_bytes_ > 0 ? std::optional(aside_until_ns_) : std::nullopt;
  }
  bool HasWaited() const { return aside_bytes_ > 0 && aside_until_ns_ <= SteadyNowNs(); }

  EngineQueue& queue() { return queue_; }
  [[nodiscard]] bool EnableKicks() { return queue_.queue->EnableKicks(); }
  bool HasChains() const { return queue_.queue->HasChains(); }

 private:
  /// A chain that is out, in the order of its taking.
  struct Room {
    uint16_t head;
    uint32_t bytes;
    size_t pieces;  // of pieces_
  };

  NetWait ReceiveNext();
  NetWait Gather();
  NetWait Add(uint16_t head);
  NetWait Read();
  NetWait SetAside(size_t bytes);
  NetWait DeliverAside();
  void Deliver(size_t bytes);
  NetWait Break(const char* fault);

  EngineQueue queue_;
  const std::shared_ptr<NetPort> port_;
  const NetRxOptions options_;
  const size_t rooms_max_;
  NetTurn turn_;

  std::vector<Room> rooms_;
  std::vector<iovec> pieces_;               // of all rooms
  std::shared_ptr<const Regions> regions_;  // where these lie
  uint64_t epoch_ = 0;                      // of the queue, when they were taken
  uint64_t room_bytes_ = 0;
  bool no_more_ = false;  // a frame can have no more than these, whatever the driver adds
  int frames_ = 0;        // of the round

  /// A frame that did not fit, as far as it did not, and then all of it.
  const std::unique_ptr<std::byte[]> aside_;
  size_t aside_bytes_ = 0;
  int64_t aside_until_ns_ = 0;
  const char* fault_ = nullptr;
  Chain chain_;
};

}  // namespace vmm
