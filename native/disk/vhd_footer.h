#pragma once
#include <cstdint>
#include <string>

#include "vhd_bytes.h"

namespace vmm {

/// The parts of a VHD by the Virtual Hard Disk Image Format Specification 1.0: pure functions of
/// bytes that nobody has looked at. All numbers are most significant byte first.

constexpr size_t kVhdSectorBytes = 512;
constexpr size_t kVhdHeaderBytes = 1024;
constexpr uint32_t kVhdNoBlock = ~uint32_t{0};  ///< in the table: it is all zeroes

struct VhdFooter {
  enum Type : uint32_t { kFixed = 2, kDynamic = 3, kDifferencing = 4 };
  uint32_t type = 0;
  uint64_t header_offset = 0;  ///< of the dynamic header; of no meaning if it is fixed
  uint64_t size_bytes = 0;     ///< of the disk
};

/// What a dynamic disk says of its blocks. Offsets and sizes in bytes.
struct VhdHeader {
  uint64_t table_offset = 0;
  uint32_t entries = 0;  ///< that the table has room for
  uint32_t block_bytes = 0;
};

/// False if the sector is no footer, or its checksum is wrong.
[[nodiscard]] bool ParseVhdFooter(Bytes sector, VhdFooter* out);

/// Of kVhdHeaderBytes, for a disk of `size_bytes`. False, with the reason in `why`, if they are no
/// header, or say what no header may.
[[nodiscard]] bool ParseVhdHeader(Bytes bytes, uint64_t size_bytes, VhdHeader* out,
                                  std::string* why);

}  // namespace vmm
