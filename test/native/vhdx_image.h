#pragma once
#include "../../native/disk/vhd_bytes.h"
#include "../../native/disk/vhdx_header.h"
#include "vhd_disk.h"

/// What the tests of VHDX know of images that QEMU makes, and how they change them.

constexpr uint64_t kHeaders[] = {64 << 10, 128 << 10};
constexpr uint64_t kRegionTables[] = {192 << 10, 256 << 10};
constexpr uint64_t kLog = 1 << 20;
constexpr uint64_t kTable = 2 << 20;
constexpr uint64_t kMetadata = 3 << 20;
constexpr uint64_t kItems = kMetadata + (64 << 10);
constexpr uint64_t kMiB = 1 << 20;

/// Writes `value` of `size` bytes, least significant first.
inline void PatchLittle(const std::string& path, uint64_t offset, uint64_t value, size_t size) {
  Data bytes(8);
  vmm::StoreLittle<uint64_t>(bytes, 0, value);
  Patch(path, offset, std::span(bytes).first(size));
}

/// Makes the checksum of a structure right, which is in its bytes 4 to 7.
inline void Seal(Data* bytes) {
  std::fill_n(bytes->begin() + 4, 4, std::byte{0});
  vmm::Crc32c crc;
  crc.Add(*bytes);
  vmm::StoreLittle(*bytes, 4, crc.value());
}

inline void Seal(const std::string& path, uint64_t offset, size_t length) {
  Data bytes = Contents(path, offset, length);
  Seal(&bytes);
  Patch(path, offset, bytes);
}

inline uint64_t EntryOf(const std::string& path, uint64_t index) {
  return vmm::LoadLittle<uint64_t>(Contents(path, kTable + index * 8, 8), 0);
}
