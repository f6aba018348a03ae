#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace vmm {

/// What the header of a qcow2 image says, checked: an image may claim anything.
struct Qcow2Header {
  uint32_t version = 0;       ///< 2 or 3
  uint32_t cluster_bits = 0;  ///< 9 to 21
  uint64_t size_bytes = 0;    ///< of the disk, a multiple of 512
  uint64_t l1_offset = 0;
  uint64_t l1_entries = 0;  ///< as many as the disk needs
  uint64_t refcount_table_offset = 0;
  uint64_t refcount_table_clusters = 0;
  uint32_t refcount_order = 0;  ///< refcounts have 1 << this bits; 0 to 6
  bool zstd = false;            ///< what is compressed is by zstd, else deflate
  uint64_t autoclear = 0;
  std::string backing_file;    ///< as the image names it; empty if it has none
  std::string backing_format;  ///< "raw", "qcow2" or another; empty if the image does not say

  uint64_t cluster_bytes() const { return uint64_t{1} << cluster_bits; }
  /// Of an L2 table.
  uint64_t l2_entries() const { return cluster_bytes() / 8; }
};

/// What of the file ParseQcow2Header wants, if it is that long.
constexpr size_t kQcow2HeaderBytes = 65536;

/// Whether a file that begins so is meant to be qcow2.
bool IsQcow2(std::span<const std::byte> first_bytes);

/// `first_bytes` of a file of `file_bytes`. Returns why the image cannot be used and what to do
/// about it, or nothing if it can, for reading or, unless `readonly`, also for writing.
/// Spec: QEMU's docs/interop/qcow2.txt.
std::string ParseQcow2Header(std::span<const std::byte> first_bytes, uint64_t file_bytes,
                             bool readonly, Qcow2Header* out);

}  // namespace vmm
