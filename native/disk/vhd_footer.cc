#include "vhd_footer.h"

#include <bit>

namespace vmm {
namespace {

// Of the footer.
constexpr size_t kHeaderOffset = 16;
constexpr size_t kCurrentSize = 48;
constexpr size_t kType = 60;
constexpr size_t kFooterChecksum = 64;

// Of the dynamic header.
constexpr size_t kTableOffset = 16;
constexpr size_t kEntries = 28;
constexpr size_t kBlockBytes = 32;
constexpr size_t kHeaderChecksum = 36;

constexpr uint32_t kBlockBytesMin = 4096;  // a byte of its bitmap, and a page
constexpr uint32_t kBlockBytesMax = 64 << 20;
constexpr uint64_t kTableBytesMax = 16 << 20;

/// All bytes are summed up but those of the sum.
bool ChecksumHolds(Bytes bytes, size_t at) {
  uint32_t sum = 0;
  for (size_t i = 0; i < bytes.size(); ++i)
    if (i < at || i >= at + sizeof(sum)) sum += std::to_integer<uint32_t>(bytes[i]);
  return LoadBig<uint32_t>(bytes, at) == ~sum;
}

}  // namespace

bool ParseVhdFooter(Bytes sector, VhdFooter* out) {
  if (sector.size() != kVhdSectorBytes || !HasText(sector, 0, "conectix")) return false;
  if (!ChecksumHolds(sector, kFooterChecksum)) return false;
  out->type = LoadBig<uint32_t>(sector, kType);
  out->header_offset = LoadBig<uint64_t>(sector, kHeaderOffset);
  out->size_bytes = LoadBig<uint64_t>(sector, kCurrentSize);
  return true;
}

bool ParseVhdHeader(Bytes bytes, uint64_t size_bytes, VhdHeader* out, std::string* why) {
  if (!HasText(bytes, 0, "cxsparse") || !ChecksumHolds(bytes, kHeaderChecksum)) {
    *why = "Its dynamic header is damaged; restore the image from a copy";
    return false;
  }
  out->table_offset = LoadBig<uint64_t>(bytes, kTableOffset);
  out->entries = LoadBig<uint32_t>(bytes, kEntries);
  out->block_bytes = LoadBig<uint32_t>(bytes, kBlockBytes);
  if (!std::has_single_bit(out->block_bytes) || out->block_bytes < kBlockBytesMin ||
      out->block_bytes > kBlockBytesMax) {
    *why = "Its block size is " + std::to_string(out->block_bytes) +
           " bytes, not a power of two from 4 KiB to 64 MiB; convert it with qemu-img convert";
    return false;
  }
  const uint64_t blocks = (size_bytes - 1) / out->block_bytes + 1;
  if (blocks > out->entries || blocks * sizeof(uint32_t) > kTableBytesMax) {
    *why = "It has a disk of " + std::to_string(size_bytes) + " bytes, but a table for " +
           std::to_string(out->entries) + " blocks of " + std::to_string(out->block_bytes) +
           " bytes, of which at most 4194304 are served; restore it from a copy or convert it " +
           "with qemu-img convert";
    return false;
  }
  return true;
}

}  // namespace vmm
