#include "net_rx.h"

#include <limits.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "../sys/tap.h"

namespace vmm {
namespace {

/// Of one readv, less the one that is ours.
constexpr size_t kPiecesMax = IOV_MAX - 1;

/// Where in the header the number of chains is.
constexpr size_t kNumBuffersAt = 10;

/// Calls `visit` with each part of [offset, offset + bytes) of `pieces`.
template <class Visit>
void ForEachPart(const std::vector<iovec>& pieces, size_t offset, size_t bytes, Visit visit) {
  for (const iovec& piece : pieces) {
    const size_t skip = std::min(offset, piece.iov_len);
    const size_t part = std::min(bytes, piece.iov_len - skip);
    if (part > 0) visit(static_cast<std::byte*>(piece.iov_base) + skip, part);
    offset -= skip;
    bytes -= part;
    if (bytes == 0) return;
  }
}

void CopyIn(const std::vector<iovec>& pieces, size_t offset, const void* from, size_t bytes) {
  const auto* at = static_cast<const std::byte*>(from);
  ForEachPart(pieces, offset, bytes, [&at](std::byte* to, size_t part) {
    std::memcpy(to, at, part);
    at += part;
  });
}

}  // namespace

NetRx::NetRx(EngineQueue queue, std::shared_ptr<NetPort> port, const NetRxOptions& options)
    : queue_(std::move(queue)),
      port_(std::move(port)),
      options_(options),
      rooms_max_(options.merge ? queue_.queue->size() : 1),
      turn_(options.limiter),
      aside_(std::make_unique_for_overwrite<std::byte[]>(options.frame_bytes_max + size_t{1})) {}

NetWait NetRx::Round() {
  frames_ = 0;
  if (fault_ != nullptr || !queue_.queue->Begin()) return Break(queue_.queue->fault());
  if (queue_.queue->epoch() != epoch_) {
    Leave();
    epoch_ = queue_.queue->epoch();
    regions_ = queue_.queue->regions();
  }
  queue_.queue->DisableKicks();
  NetWait wait = NetWait::kNothing;
  for (int tries = 0; wait == NetWait::kNothing && tries < kRoundFrames; ++tries)
    wait = turn_.has_come() ? ReceiveNext() : NetWait::kTurn;
  if (queue_.queue->Publish()) queue_.irq->Signal();
  return wait;
}

NetWait NetRx::ReceiveNext() {
  const NetWait wait = Gather();
  if (wait != NetWait::kNothing) return wait;
  if (aside_bytes_ > 0) return DeliverAside();
  return rooms_.empty() ? NetWait::kDriver : Read();
}

/// Takes chains until they have room for any frame, or there are no more.
NetWait NetRx::Gather() {
  no_more_ = true;
  while (room_bytes_ < options_.frame_bytes_max && rooms_.size() < rooms_max_) {
    uint16_t head = 0;
    const Queue::Taken taken = queue_.queue->Take(&chain_, &head);
    if (taken == Queue::Taken::kBroken) return Break(queue_.queue->fault());
    if (taken == Queue::Taken::kNone) return no_more_ = false, NetWait::kNothing;
    if (pieces_.size() + chain_.writable.count > kPiecesMax && !rooms_.empty()) {
      queue_.queue->GiveBack({&head, 1});
      return NetWait::kNothing;
    }
    const NetWait wait = Add(head);
    if (wait != NetWait::kNothing) return wait;
  }
  return NetWait::kNothing;
}

NetWait NetRx::Add(uint16_t head) {
  uint64_t bytes = 0;
  for (const iovec& piece : chain_.writable) bytes += piece.iov_len;
  rooms_.push_back({head, static_cast<uint32_t>(bytes), chain_.writable.count});
  pieces_.insert(pieces_.end(), chain_.writable.begin(), chain_.writable.end());
  room_bytes_ += bytes;
  // §5.1.6.3.1: what has no room for that is no buffer.
  if (bytes < kFrameHeaderBytes) return Break("receive buffer without room for a header");
  if (pieces_.size() > kPiecesMax) return Break("receive buffer of too many pieces");
  return NetWait::kNothing;
}

/// One frame, straight to where it belongs. What does not fit goes behind where it would be in
/// aside_: so it is seen that it does not, and SetAside has only the rest to copy.
NetWait NetRx::Read() {
  const size_t fits = std::min<uint64_t>(room_bytes_, options_.frame_bytes_max);
  pieces_.push_back({aside_.get() + fits, options_.frame_bytes_max + 1 - fits});
  const ssize_t got = readv(port_->tap, pieces_.data(), static_cast<int>(pieces_.size()));
  pieces_.pop_back();
  // If it is not that there is none, the frame is lost, and poll(2) tells what is wrong.
  if (got < ssize_t{kFrameHeaderBytes}) return NetWait::kTap;
  const auto bytes = static_cast<size_t>(got);
  if (bytes > room_bytes_) return SetAside(bytes);
  Deliver(bytes);
  return NetWait::kNothing;
}

/// A frame that will fit when the driver has added room is kept, not lost: a large one may come
/// when the ring is nearly empty, and under load it often is. But not for ever.
NetWait NetRx::SetAside(size_t bytes) {
  if (no_more_ || bytes > options_.frame_bytes_max) return NetWait::kNothing;
  std::byte* to = aside_.get();
  ForEachPart(pieces_, 0, room_bytes_, [&to](const std::byte* from, size_t part) {
    std::memcpy(to, from, part);
    to += part;
  });
  aside_bytes_ = bytes;
  aside_until_ns_ = SteadyNowNs() + options_.patience_ns;
  return NetWait::kNothing;
}

NetWait NetRx::DeliverAside() {
  if (aside_bytes_ > room_bytes_ && !no_more_ && !HasWaited()) return NetWait::kDriver;
  const size_t bytes = std::exchange(aside_bytes_, 0);
  if (bytes > room_bytes_) return NetWait::kNothing;
  CopyIn(pieces_, 0, aside_.get(), bytes);
  Deliver(bytes);
  return NetWait::kNothing;
}

/// The frame lies in the first rooms: they are the driver's, the last of them partly filled.
void NetRx::Deliver(size_t bytes) {
  uint16_t used = 0;
  size_t pieces = 0;
  for (size_t left = bytes; left > 0; ++used) {
    const Room& room = rooms_[used];
    const size_t part = std::min<size_t>(left, room.bytes);
    queue_.queue->Complete(room.head, static_cast<uint32_t>(part));
    left -= part;
    pieces += room.pieces;
    room_bytes_ -= room.bytes;
  }
  CopyIn(pieces_, kNumBuffersAt, &used, sizeof(used));
  rooms_.erase(rooms_.begin(), rooms_.begin() + used);
  pieces_.erase(pieces_.begin(), pieces_.begin() + static_cast<ptrdiff_t>(pieces));
  ++frames_;
  port_->rx_frames.fetch_add(1, std::memory_order_relaxed);
  port_->rx_bytes.fetch_add(bytes - kFrameHeaderBytes, std::memory_order_relaxed);
  turn_.Pay(bytes - kFrameHeaderBytes);
}

void NetRx::Leave() {
  std::vector<uint16_t> heads;
  for (const Room& room : rooms_) heads.push_back(room.head);
  queue_.queue->GiveBack(heads);
  rooms_.clear();
  pieces_.clear();
  room_bytes_ = 0;
}

void NetRx::Rest() {
  Leave();
  queue_.queue->LetGo();
}

NetWait NetRx::Break(const char* fault) {
  if (fault_ == nullptr) fault_ = fault;
  Rest();
  if (queue_.on_broken) queue_.on_broken(fault_);
  return NetWait::kBroken;
}

}  // namespace vmm
