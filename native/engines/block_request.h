#pragma once
#include <linux/virtio_blk.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../virtio/chain.h"

namespace vmm {

/// What the requests of a disk are checked against.
struct BlockLimits {
  uint64_t size_bytes = 0;  // a multiple of 512
  bool readonly = false;
  bool discard = false;
};

/// One request of VIRTIO 1.2 §5.2.6, checked wholly.
struct BlockRequest {
  enum class Kind : uint8_t { kRead, kWrite, kFlush, kGetId, kDiscard, kWriteZeroes };
  Kind kind = Kind::kFlush;
  bool unmap = false;            // of kWriteZeroes: the room may be given back
  uint8_t status = 0;            // if not VIRTIO_BLK_S_OK, the answer, and nothing is to be done
  uint8_t* status_at = nullptr;  // in guest RAM; null if the chain has no room for it
  uint64_t offset_bytes = 0;     // within the disk
  uint64_t length_bytes = 0;     // of the data, or of what is discarded or zeroed
  uint64_t room_bytes = 0;       // that the device may write before the status
  std::vector<iovec> data;       // of kRead, kWrite and kGetId; in guest RAM, none empty
};

namespace block_request {

constexpr uint64_t kSectorBytes = 512;

inline uint64_t TotalBytes(const Segments& pieces) {
  uint64_t total = 0;  // at most kChainBytesMax
  for (const iovec& piece : pieces) total += piece.iov_len;
  return total;
}

/// Appends [from, to) of the bytes that `pieces` are.
inline void Slice(const Segments& pieces, uint64_t from, uint64_t to, std::vector<iovec>* out) {
  uint64_t at = 0;
  for (const iovec& piece : pieces) {
    const uint64_t begin = std::max(at, from);
    const uint64_t end = std::min(at + piece.iov_len, to);
    if (begin < end)
      out->push_back({static_cast<std::byte*>(piece.iov_base) + (begin - at), end - begin});
    at += piece.iov_len;
  }
}

/// The whole of it must lie on the disk, not each piece. Nothing here can wrap.
inline uint8_t SetRange(uint64_t sector, uint64_t length_bytes, const BlockLimits& limits,
                        BlockRequest* out) {
  const uint64_t sectors = limits.size_bytes / kSectorBytes;
  if (length_bytes % kSectorBytes != 0 || sector > sectors ||
      length_bytes / kSectorBytes > sectors - sector)
    return VIRTIO_BLK_S_IOERR;
  out->offset_bytes = sector * kSectorBytes;
  out->length_bytes = length_bytes;
  return VIRTIO_BLK_S_OK;
}

/// DISCARD and WRITE_ZEROES. The config space allows one segment. §5.2.6.2.
inline uint8_t ParseSegment(const Segments& readable, uint64_t segment_bytes,
                            const BlockLimits& limits, BlockRequest* out) {
  virtio_blk_discard_write_zeroes segment;
  if (segment_bytes != sizeof(segment) || !Gather(readable, sizeof(virtio_blk_outhdr), &segment))
    return VIRTIO_BLK_S_IOERR;
  const bool zeroes = out->kind == BlockRequest::Kind::kWriteZeroes;
  const uint32_t known_flags = zeroes ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
  if ((segment.flags & ~known_flags) != 0) return VIRTIO_BLK_S_UNSUPP;
  out->unmap = segment.flags != 0;
  return SetRange(segment.sector, segment.num_sectors * kSectorBytes, limits, out);
}

inline bool SetKind(uint32_t type, BlockRequest* out) {
  switch (type) {
    case VIRTIO_BLK_T_IN:
      return out->kind = BlockRequest::Kind::kRead, true;
    case VIRTIO_BLK_T_OUT:
      return out->kind = BlockRequest::Kind::kWrite, true;
    case VIRTIO_BLK_T_FLUSH:
      return out->kind = BlockRequest::Kind::kFlush, true;
    case VIRTIO_BLK_T_GET_ID:
      return out->kind = BlockRequest::Kind::kGetId, true;
    case VIRTIO_BLK_T_DISCARD:
      return out->kind = BlockRequest::Kind::kDiscard, true;
    case VIRTIO_BLK_T_WRITE_ZEROES:
      return out->kind = BlockRequest::Kind::kWriteZeroes, true;
    default:
      return false;
  }
}

/// What follows the header, by kind. Returns the status.
inline uint8_t ParseBody(const Chain& chain, uint64_t sector, const BlockLimits& limits,
                         BlockRequest* out) {
  const uint64_t readable_bytes = TotalBytes(chain.readable);
  const uint64_t body_bytes = readable_bytes - sizeof(virtio_blk_outhdr);
  switch (out->kind) {
    case BlockRequest::Kind::kRead:
      Slice(chain.writable, 0, out->room_bytes, &out->data);
      return SetRange(sector, out->room_bytes, limits, out);
    case BlockRequest::Kind::kWrite:
      if (limits.readonly) return VIRTIO_BLK_S_IOERR;
      Slice(chain.readable, sizeof(virtio_blk_outhdr), readable_bytes, &out->data);
      return SetRange(sector, body_bytes, limits, out);
    case BlockRequest::Kind::kFlush:
      return VIRTIO_BLK_S_OK;
    case BlockRequest::Kind::kGetId:
      out->length_bytes = std::min<uint64_t>(out->room_bytes, VIRTIO_BLK_ID_BYTES);
      Slice(chain.writable, 0, out->length_bytes, &out->data);
      return VIRTIO_BLK_S_OK;
    case BlockRequest::Kind::kDiscard:
      if (!limits.discard) return VIRTIO_BLK_S_UNSUPP;
      [[fallthrough]];
    case BlockRequest::Kind::kWriteZeroes:
      if (limits.readonly) return VIRTIO_BLK_S_IOERR;
      return ParseSegment(chain.readable, body_bytes, limits, out);
  }
  return VIRTIO_BLK_S_UNSUPP;
}

}  // namespace block_request

/// Reads a request out of its chain: 16 bytes of header, data, one byte of status, cut into
/// descriptors however the driver likes (§2.7.4). Nothing is carried out, and all numbers are
/// copied out of guest RAM before they are looked at.
///
/// A chain without room for the status is no request: there is nothing to tell, so it is given back
/// with nothing written, and the queue works on. One with a header that is cut short fails.
inline void ParseBlockRequest(const Chain& chain, const BlockLimits& limits, BlockRequest* out) {
  using namespace block_request;
  out->data.clear();
  out->unmap = false;
  out->offset_bytes = out->length_bytes = out->room_bytes = 0;
  out->status_at = nullptr;
  out->status = VIRTIO_BLK_S_IOERR;
  for (const iovec& piece : chain.writable)
    if (piece.iov_len > 0)
      out->status_at = static_cast<uint8_t*>(piece.iov_base) + piece.iov_len - 1;
  if (out->status_at == nullptr) return;
  out->room_bytes = TotalBytes(chain.writable) - 1;

  virtio_blk_outhdr header;
  if (!Gather(chain.readable, 0, &header)) return;
  out->status = SetKind(header.type, out) ? ParseBody(chain, header.sector, limits, out)
                                          : uint8_t{VIRTIO_BLK_S_UNSUPP};
}

}  // namespace vmm
