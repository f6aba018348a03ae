#include "net_tx.h"

#include <sys/uio.h>

#include <cerrno>
#include <utility>

#include "../sys/tap.h"

namespace vmm {
namespace {

/// An IP packet of 64 KiB less one, with an Ethernet header, a VLAN tag, and ours in front.
constexpr uint64_t kFrameBytesMax = 65'535 + 14 + 4 + kFrameHeaderBytes;

}  // namespace

NetTx::NetTx(EngineQueue queue, std::shared_ptr<NetPort> port, std::shared_ptr<RateLimiter> limiter)
    : queue_(std::move(queue)), port_(std::move(port)), turn_(std::move(limiter)) {}

NetWait NetTx::Round(bool has_tap) {
  frames_ = 0;
  if (!queue_.queue->Begin()) return Break();
  queue_.queue->DisableKicks();
  NetWait wait = NetWait::kNothing;
  while (wait == NetWait::kNothing && frames_ < kRoundFrames)
    wait = turn_.has_come() ? SendNext(has_tap) : NetWait::kTurn;
  if (queue_.queue->Publish()) queue_.irq->Signal();
  return wait;
}

NetWait NetTx::SendNext(bool has_tap) {
  uint16_t head = 0;
  const Queue::Taken taken = queue_.queue->Take(&chain_, &head);
  if (taken == Queue::Taken::kBroken) return Break();
  if (taken == Queue::Taken::kNone) return NetWait::kDriver;
  const NetWait wait = has_tap ? Send(chain_.readable) : NetWait::kNothing;
  if (wait != NetWait::kNothing) {
    queue_.queue->GiveBack({&head, 1});
    return wait;
  }
  ++frames_;
  queue_.queue->Complete(head, 0);
  return NetWait::kNothing;
}

/// A frame that cannot be one is dropped, and so is one that the tap refuses: what is in the header
/// is the driver's word, and the interface may be down, or gone.
NetWait NetTx::Send(const Segments& frame) {
  uint64_t bytes = 0;
  for (const iovec& piece : frame) bytes += piece.iov_len;
  if (bytes < kFrameHeaderBytes || bytes > kFrameBytesMax) return NetWait::kNothing;
  if (writev(port_->tap, frame.begin(), static_cast<int>(frame.count)) < 0)
    return errno == EAGAIN ? NetWait::kTap : NetWait::kNothing;
  port_->tx_frames.fetch_add(1, std::memory_order_relaxed);
  port_->tx_bytes.fetch_add(bytes - kFrameHeaderBytes, std::memory_order_relaxed);
  turn_.Pay(bytes - kFrameHeaderBytes);
  return NetWait::kNothing;
}

NetWait NetTx::Break() {
  if (queue_.on_broken) queue_.on_broken(queue_.queue->fault());
  return NetWait::kBroken;
}

}  // namespace vmm
