#include "vsock_connection.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <bit>
#include <string>

namespace vmm {

VsockConnection::VsockConnection(Fd socket, Phase phase, uint32_t window_bytes)
    : socket_(std::move(socket)), phase_(phase), credit_(window_bytes), outbox_(window_bytes) {}

void VsockConnection::Request(uint32_t guest_port, uint32_t host_port) {
  phase_ = Phase::kRequested;
  guest_port_ = guest_port;
  host_port_ = host_port;
  readable_ = true;  // bytes may lie behind the line
  Tell(VIRTIO_VSOCK_OP_REQUEST);
  if (host_gone_) Abort();
}

void VsockConnection::Accept(const VsockHeader& request) {
  guest_port_ = request.src_port;
  host_port_ = request.dst_port;
  credit_.TakePeer(request.buf_alloc, request.fwd_cnt);
  Tell(VIRTIO_VSOCK_OP_RESPONSE);
}

VsockConnection::Verdict VsockConnection::OnPacket(const VsockPacket& packet) {
  const VsockHeader& header = packet.header;
  if (header.op == VIRTIO_VSOCK_OP_RST) return Verdict::kGone;
  if (phase_ == Phase::kAborted) return Verdict::kStays;  // its reset is on the way
  credit_.TakePeer(header.buf_alloc, header.fwd_cnt);
  if (credit_.peer_room_bytes() > 0) asked_ = false;
  switch (header.op) {
    case VIRTIO_VSOCK_OP_RESPONSE:
      return OnResponse();
    case VIRTIO_VSOCK_OP_RW:
      return OnPayload(packet);
    case VIRTIO_VSOCK_OP_SHUTDOWN:
      return OnShutdown(header.flags);
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
      Tell(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
      [[fallthrough]];
    case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
      TellNews();
      return Verdict::kStays;
    default:
      return Verdict::kBroken;
  }
}

VsockConnection::Verdict VsockConnection::OnResponse() {
  if (phase_ != Phase::kRequested || Tells(VIRTIO_VSOCK_OP_REQUEST)) return Verdict::kBroken;
  phase_ = Phase::kOpen;
  std::string line = "OK " + std::to_string(host_port_) + "\n";
  const iovec piece{line.data(), line.size()};
  // Nothing was sent before, so there is room for a line unless the client is gone.
  if (WriteVsockSocket(fd(), &piece, 1) != static_cast<ssize_t>(line.size())) Abort();
  return Verdict::kStays;
}

/// Also after the host has gone, for the guest may have sent it before it heard of that.
VsockConnection::Verdict VsockConnection::OnPayload(const VsockPacket& packet) {
  const uint32_t bytes = packet.header.len;
  const bool may_send = phase_ != Phase::kRequested && (guest_over_ & kVsockNoSend) == 0;
  if (!may_send || !packet.whole || bytes > credit_.room_bytes()) return Verdict::kBroken;
  credit_.Receive(bytes);
  if ((host_over_ & kVsockNoReceive) != 0)
    credit_.ForwardAll();
  else
    Write(packet.payload);
  TellNews();
  return Verdict::kStays;
}

VsockConnection::Verdict VsockConnection::OnShutdown(uint32_t flags) {
  if (phase_ == Phase::kRequested) return Verdict::kBroken;
  guest_over_ |= flags & kVsockBothWays;
  if (guest_over_ == kVsockBothWays) return Verdict::kAgreed;
  if (phase_ != Phase::kOpen) return Verdict::kStays;
  if ((guest_over_ & kVsockNoReceive) != 0) {
    if (host_gone_) return EndHost(kVsockBothWays), Verdict::kStays;
    shutdown(fd(), SHUT_RD);
  }
  Flush();
  return Verdict::kStays;
}

uint32_t VsockConnection::awaited_events() const {
  if (!socket_.ok()) return 0;
  const bool knows_of_input = readable_ && phase_ != Phase::kGreeting;
  return (knows_of_input ? 0U : EPOLLIN) | (outbox_.empty() ? 0U : EPOLLOUT);
}

void VsockConnection::OnSocket(uint32_t events) {
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) readable_ = true;
  if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) hung_up_ = true;
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) host_gone_ = true;
  if (phase_ == Phase::kRequested && host_gone_) return Abort();
  if ((events & EPOLLOUT) != 0) Flush();
  if (host_gone_ && !may_read()) EndHost(kVsockBothWays);
  TellNews();
}

void VsockConnection::Drain() {
  phase_ = Phase::kDraining;
  pending_ = 0;
}

bool VsockConnection::over() const {
  if (phase_ == Phase::kDraining) return outbox_.empty() || host_gone_;
  return phase_ == Phase::kAborted && pending_ == 0;
}

bool VsockConnection::may_read() const {
  return phase_ == Phase::kOpen && (host_over_ & kVsockNoSend) == 0 &&
         (guest_over_ & kVsockNoReceive) == 0;
}

bool VsockConnection::can_read() const {
  return readable_ && may_read() && credit_.peer_room_bytes() > 0;
}

uint32_t VsockConnection::read_bytes_max() const {
  return std::min(credit_.peer_room_bytes(), kVsockPayloadBytesMax);
}

/// A connection is made before all else that is said of it, and a reset is alone.
uint16_t VsockConnection::next_op() const {
  if (pending_ == 0) return VIRTIO_VSOCK_OP_INVALID;
  return static_cast<uint16_t>(std::countr_zero(pending_));
}

VsockHeader VsockConnection::Header(uint16_t op) {
  VsockHeader header{};
  header.src_cid = kVsockHostCid;
  header.src_port = host_port_;
  header.dst_port = guest_port_;
  header.type = VIRTIO_VSOCK_TYPE_STREAM;
  header.op = op;
  header.buf_alloc = credit_.window_bytes();
  header.fwd_cnt = credit_.Tell();
  if (op == VIRTIO_VSOCK_OP_SHUTDOWN) header.flags = host_over_;
  return header;
}

uint32_t VsockConnection::Read(iovec* pieces, size_t count) {
  readable_ = hung_up_;
  const VsockRead read = ReadVsockSocket(fd(), pieces, count);
  if (read.bytes == -EAGAIN) return 0;
  if (read.bytes < 0) return Abort(), 0;
  if (read.bytes == 0) return EndHost(host_gone_ ? kVsockBothWays : kVsockNoSend), 0;
  readable_ = readable_ || !read.drained;
  const auto bytes = static_cast<uint32_t>(read.bytes);
  // Filled to the brim, there may be twice as much the next time.
  likely_bytes_ = read.drained ? bytes : std::min(2 * bytes, kVsockPayloadBytesMax);
  credit_.Send(bytes);
  TellNews();
  return bytes;
}

/// Whatever the socket does not take now waits in the outbox, where there is room: the guest keeps
/// to its credit.
void VsockConnection::Write(const Segments& payload) {
  size_t sent = 0;
  if (outbox_.empty()) {
    const ssize_t taken = Push(payload.begin(), payload.count);
    if (taken < 0) return;
    sent = static_cast<size_t>(taken);
  }
  for (const iovec& piece : payload) {
    const size_t skipped = std::min(sent, piece.iov_len);
    sent -= skipped;
    if (skipped < piece.iov_len)
      outbox_.Put(static_cast<std::byte*>(piece.iov_base) + skipped,
                  static_cast<uint32_t>(piece.iov_len - skipped));
  }
}

/// How many bytes the socket took now. Negative: it takes none any more, and the guest will know.
ssize_t VsockConnection::Push(const iovec* pieces, size_t count) {
  const ssize_t taken = WriteVsockSocket(fd(), pieces, count);
  lacks_memory_ = taken == -ENOBUFS || taken == -ENOMEM;
  if (lacks_memory_) return 0;
  if (taken >= 0) {
    credit_.Forward(static_cast<uint32_t>(taken));
  } else if (taken == -EPIPE || taken == -ECONNRESET || phase_ == Phase::kDraining) {
    EndHost(kVsockNoReceive);  // what it has sent is still read
  } else {
    Abort();
  }
  return taken;
}

void VsockConnection::Flush() {
  while (!outbox_.empty()) {
    iovec pieces[2];
    const size_t count = outbox_.Peek(pieces);
    const ssize_t taken = Push(pieces, count);
    if (taken <= 0) return;
    outbox_.Drop(static_cast<uint32_t>(taken));
  }
  if (phase_ == Phase::kOpen && (guest_over_ & kVsockNoSend) != 0) shutdown(fd(), SHUT_WR);
}

/// The host does these no more.
void VsockConnection::EndHost(uint32_t ways) {
  if (phase_ != Phase::kOpen && phase_ != Phase::kDraining) return;
  host_over_ |= ways;
  if ((host_over_ & kVsockNoReceive) != 0) {
    outbox_.Clear();
    credit_.ForwardAll();
  }
  if (phase_ == Phase::kDraining) {
    host_gone_ = true;
    return;
  }
  Tell(VIRTIO_VSOCK_OP_SHUTDOWN);
  if (host_over_ != kVsockBothWays) return;
  phase_ = Phase::kEnding;
  socket_ = Fd();
}

/// The guest's answer is not waited for. If it does not even know yet, it need not hear of it.
void VsockConnection::Abort() {
  const bool unknown = Tells(VIRTIO_VSOCK_OP_REQUEST);
  pending_ = 0;
  if (!unknown) Tell(VIRTIO_VSOCK_OP_RST);
  phase_ = Phase::kAborted;
  socket_ = Fd();
}

void VsockConnection::TellNews() {
  if (phase_ != Phase::kOpen) return;
  if (credit_.news_due()) Tell(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
  if (!asked_ && readable_ && credit_.peer_room_bytes() == 0) {
    asked_ = true;
    Tell(VIRTIO_VSOCK_OP_CREDIT_REQUEST);
  }
}

}  // namespace vmm
