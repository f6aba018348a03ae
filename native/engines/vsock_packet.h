#pragma once
#include <linux/virtio_vsock.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "../virtio/chain.h"

namespace vmm {

/// As it lies in guest RAM, little-endian. VIRTIO 1.2 §5.10.6.
using VsockHeader = virtio_vsock_hdr;

/// Who we are to the guest, §5.10.4.
constexpr uint64_t kVsockHostCid = 2;

/// What a side does no more, as flags of OP_SHUTDOWN. §5.10.6.5.
constexpr uint32_t kVsockNoReceive = VIRTIO_VSOCK_SHUTDOWN_RCV;
constexpr uint32_t kVsockNoSend = VIRTIO_VSOCK_SHUTDOWN_SEND;
constexpr uint32_t kVsockBothWays = kVsockNoReceive | kVsockNoSend;

/// The most payload that is sent at a time; also what Linux sends.
constexpr uint32_t kVsockPayloadBytesMax = 64 << 10;

/// A packet of the driver.
struct VsockPacket {
  VsockHeader header{};
  Segments payload;    // in guest RAM, as many bytes as the header says
  bool whole = false;  // there were as many
};

/// Splits off the first `head_bytes` of `pieces`. False if there are not that many.
template <class Head, class Rest>
[[nodiscard]] bool SplitPieces(const Segments& pieces, uint64_t head_bytes, Head* head,
                               Rest* rest) {
  for (const iovec& piece : pieces) {
    const uint64_t part = std::min<uint64_t>(head_bytes, piece.iov_len);
    head_bytes -= part;
    if (part > 0 && !head->push_back({piece.iov_base, part})) return false;
    if (part == piece.iov_len) continue;
    auto* behind = static_cast<std::byte*>(piece.iov_base) + part;
    if (!rest->push_back({behind, piece.iov_len - part})) return false;
  }
  return head_bytes == 0;
}

/// Where a header lies: as many pieces as it has bytes, at worst.
using VsockHeaderPieces = BoundedList<iovec, sizeof(VsockHeader)>;

/// False if the chain is too short for a header. All of it is read once, whatever the driver does.
[[nodiscard]] inline bool ParseVsockPacket(const Chain& chain, VsockPacket* out) {
  VsockHeaderPieces header;
  Segments behind;
  behind.count = out->payload.count = 0;
  if (!SplitPieces(chain.readable, sizeof(VsockHeader), &header, &behind)) return false;
  auto* to = reinterpret_cast<std::byte*>(&out->header);
  for (const iovec& piece : header) {
    std::memcpy(to, piece.iov_base, piece.iov_len);
    to += piece.iov_len;
  }
  asm volatile("" : "+m"(out->header));  // else the compiler may fetch from guest RAM again
  uint64_t left = out->header.len;
  for (const iovec& piece : behind) {
    const uint64_t part = std::min<uint64_t>(left, piece.iov_len);
    left -= part;
    if (part > 0 && !out->payload.push_back({piece.iov_base, part})) return false;
  }
  out->whole = left == 0;
  return true;
}

inline void WriteVsockHeader(const VsockHeader& header, const VsockHeaderPieces& to) {
  const auto* from = reinterpret_cast<const std::byte*>(&header);
  for (const iovec& piece : to) {
    std::memcpy(piece.iov_base, from, piece.iov_len);
    from += piece.iov_len;
  }
}

/// The answer to a packet that nobody can do anything with. Whoever sends it says to which guest.
inline VsockHeader VsockReset(const VsockHeader& to) {
  VsockHeader reset{};
  reset.src_cid = to.dst_cid;
  reset.src_port = to.dst_port;
  reset.dst_port = to.src_port;
  reset.type = to.type;
  reset.op = VIRTIO_VSOCK_OP_RST;
  return reset;
}

}  // namespace vmm
