#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "image_file.h"
#include "vhd_bytes.h"

namespace vmm {

/// Where everything is in a VHDX, and what disk it holds. Sizes and offsets in bytes.
struct VhdxLayout {
  uint64_t size_bytes = 0;  ///< of the disk
  uint32_t block_bytes = 0;
  uint32_t sector_bytes = 0;  ///< logical: 512 or 4096
  uint64_t blocks = 0;
  uint64_t ratio = 0;  ///< of blocks to each entry of the table that is for a bitmap of sectors
  uint64_t table_offset = 0;
  uint64_t entries = 0;  ///< of the table, those of bitmaps among them
  /// What no block may overlap: the header section, the log and all regions, by their beginnings.
  std::vector<FileRange> reserved;
};

/// Reads the region table and the metadata, MS-VHDX 2.2.3 and 2.6. 0, or a negative errno with the
/// reason and a remedy in `why`: they are damaged, or ask for what is not known.
[[nodiscard]] int LoadVhdxLayout(const ImageFile& file, uint64_t file_bytes, const FileRange& log,
                                 VhdxLayout* out, std::string* why);

}  // namespace vmm
