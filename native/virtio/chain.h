#pragma once
#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../base/bounded_list.h"
#include "../memory/guest_memory.h"

namespace vmm {

/// What is wrong with a chain: each names a rule of VIRTIO 1.2 §2.7.5 that the driver broke.
enum class ChainStatus {
  kOk,
  kBadIndex,
  kLoop,
  kBadTable,
  kBadIndirect,
  kBadBuffer,
  kBadOrder,
  kTooLong
};

/// IOV_MAX: a chain is always one readv or writev.
constexpr size_t kChainSegmentsMax = 1024;

/// What a used length can say; a driver may not offer more than one byte beyond. §2.7.5.2.
constexpr uint64_t kChainBytesMax = UINT32_MAX;

/// One request: what the device may read, then what it may write. The pointers are good for as long
/// as the `Regions` that they came from is held.
using Segments = BoundedList<iovec, kChainSegmentsMax>;
struct Chain {
  Segments readable, writable;
};

/// A descriptor as it lies in guest RAM, little-endian. §2.7.5.
struct Descriptor {
  uint64_t gpa;
  uint32_t len;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

constexpr uint16_t kDescriptorNext = 1, kDescriptorWrite = 2, kDescriptorIndirect = 4;

/// Walks the chain at `head` once and checks all of it before the device sees any of it.
///
/// Each descriptor is copied out of guest memory before it is looked at, so the guest cannot change
/// it between check and use. Work is bounded: one indirection, and no more descriptors, direct and
/// indirect together, than the queue has (§2.7.5.3.1). Empty buffers are legal.
/// `ram` is `Regions`, or a `DmaView` of them: then addresses are I/O virtual ones.
/// Spec: VIRTIO 1.2 §2.7.4.2 (order), §2.7.5 (table), §2.7.5.3 (indirect, where negotiated).
template <class Ram>
[[nodiscard]] ChainStatus WalkChain(const Ram& ram, uint64_t table_gpa, uint16_t queue_size,
                                    uint16_t head, bool indirect_allowed, Chain* out) {
  out->readable.count = out->writable.count = 0;
  uint64_t table = table_gpa;
  uint32_t entries = queue_size;
  uint32_t visits_left = queue_size;
  uint32_t index = head;
  uint64_t total_bytes = 0;
  bool indirect = false;
  for (;;) {
    if (index >= entries) return ChainStatus::kBadIndex;
    Descriptor desc;
    uint64_t at = 0;
    if (__builtin_add_overflow(table, uint64_t{index} * sizeof(desc), &at) || !ram.Read(at, &desc))
      return ChainStatus::kBadTable;

    if ((desc.flags & kDescriptorIndirect) != 0) {  // at most once, and uncounted
      entries = desc.len / sizeof(desc);
      const bool fits = desc.len % sizeof(desc) == 0 && entries > 0 && entries <= queue_size;
      if (!indirect_allowed || indirect || (desc.flags & kDescriptorNext) != 0 || !fits)
        return ChainStatus::kBadIndirect;
      table = desc.gpa, index = 0, indirect = true;
      continue;
    }

    if (visits_left-- == 0) return ChainStatus::kLoop;
    const bool writable = (desc.flags & kDescriptorWrite) != 0;
    if (!writable && out->writable.count > 0) return ChainStatus::kBadOrder;
    total_bytes += desc.len;
    if (total_bytes > kChainBytesMax) return ChainStatus::kTooLong;
    if (!ram.Map(desc.gpa, desc.len, writable, writable ? &out->writable : &out->readable))
      return ChainStatus::kBadBuffer;  // not RAM, or too many segments; split at region edges
    if ((desc.flags & kDescriptorNext) == 0) return ChainStatus::kOk;
    index = desc.next;
  }
}

/// Copies `*out` from `offset` on, wherever the driver has cut it. False if there is not that much.
template <class T>
[[nodiscard]] bool Gather(const Segments& pieces, uint64_t offset, T* out) {
  auto* to = reinterpret_cast<std::byte*>(out);
  uint64_t wanted = sizeof(T);
  for (const iovec& piece : pieces) {
    const uint64_t skipped = std::min<uint64_t>(offset, piece.iov_len);
    const uint64_t part = std::min(wanted, piece.iov_len - skipped);
    if (part > 0) std::memcpy(to, static_cast<std::byte*>(piece.iov_base) + skipped, part);
    offset -= skipped;
    wanted -= part;
    to += part;
  }
  asm volatile("" : "+m"(*out));  // else the compiler may fetch from guest RAM again
  return wanted == 0;
}

/// Copies all of `value` to where the pieces begin. False if there is not that much room.
template <class T>
[[nodiscard]] bool Scatter(const T& value, const Segments& pieces) {
  const auto* from = reinterpret_cast<const std::byte*>(&value);
  uint64_t left = sizeof(T);
  for (const iovec& piece : pieces) {
    const uint64_t part = std::min<uint64_t>(left, piece.iov_len);
    if (part > 0) std::memcpy(piece.iov_base, from, part);
    from += part;
    left -= part;
  }
  return left == 0;
}

}  // namespace vmm
