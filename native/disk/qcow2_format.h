#pragma once
#include <endian.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace vmm::qcow2 {

inline uint32_t LoadBe32(const std::byte* at) {
  uint32_t value;
  std::memcpy(&value, at, sizeof(value));
  return be32toh(value);
}
inline uint64_t LoadBe64(const std::byte* at) {
  uint64_t value;
  std::memcpy(&value, at, sizeof(value));
  return be64toh(value);
}
inline void StoreBe32(std::byte* at, uint32_t value) {
  value = htobe32(value);
  std::memcpy(at, &value, sizeof(value));
}
inline void StoreBe64(std::byte* at, uint64_t value) {
  value = htobe64(value);
  std::memcpy(at, &value, sizeof(value));
}

constexpr uint32_t kSectorBits = 9;
constexpr uint64_t kEntryBytes = 8;  // of the L1 table, L2 tables and the refcount table

// Of an entry of the L1 table or an L2 table.
constexpr uint64_t kOffsetMask = 0x00ff'ffff'ffff'fe00;
constexpr uint64_t kCopiedFlag = uint64_t{1} << 63;  ///< its refcount is exactly 1
// Of an entry of an L2 table.
constexpr uint64_t kCompressedFlag = uint64_t{1} << 62;
constexpr uint64_t kZeroFlag = 1;  ///< since version 3

/// What an entry of an L2 table says of a cluster of the disk.
struct Cluster {
  enum class Kind : uint8_t {
    kBad,          ///< nothing that may be relied on
    kUnallocated,  ///< as in the backing file; else zeroes
    kZero,         ///< zeroes, perhaps with room set aside
    kData,
    kCompressed,
  };
  Kind kind = Kind::kBad;
  bool copied = false;
  uint64_t offset = 0;  ///< in the file; 0 if it has no room there
  uint64_t length = 0;  ///< in the file, of kCompressed: with what stands behind its end

  bool operator==(const Cluster&) const = default;
};

/// Clusters of the file.
struct Run {
  uint64_t first = 0;
  uint64_t count = 0;
  uint64_t end() const { return first + count; }
};

/// `file_bytes`: nothing that begins at it or later is in the file.
inline Cluster Decode(uint64_t entry, uint32_t version, uint32_t cluster_bits,
                      uint64_t file_bytes) {
  using Kind = Cluster::Kind;
  if ((entry & kCompressedFlag) != 0) {
    // How many bits tell the offset, and how many behind them the sectors, depends on the size.
    const uint32_t offset_bits = 62 - (cluster_bits - 8);
    const uint64_t offset = entry & ((uint64_t{1} << offset_bits) - 1);
    const uint64_t sectors = ((entry & ~(kCopiedFlag | kCompressedFlag)) >> offset_bits) + 1;
    const uint64_t length = (sectors << kSectorBits) - offset % (1 << kSectorBits);
    return {offset < file_bytes ? Kind::kCompressed : Kind::kBad, false, offset, length};
  }
  const uint64_t offset = entry & kOffsetMask;
  const bool zero = (entry & kZeroFlag) != 0;
  const uint64_t in_cluster = offset & ((uint64_t{1} << cluster_bits) - 1);
  if (in_cluster != 0 || offset >= file_bytes || (zero && version < 3)) return {};
  if (offset == 0) return {zero ? Kind::kZero : Kind::kUnallocated, false, 0, 0};
  return {zero ? Kind::kZero : Kind::kData, (entry & kCopiedFlag) != 0, offset, 0};
}

}  // namespace vmm::qcow2
