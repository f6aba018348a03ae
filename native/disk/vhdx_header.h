#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "image_file.h"
#include "vhd_bytes.h"
#include "vhdx_guid.h"

namespace vmm {

constexpr uint64_t kVhdxAlign = 1 << 20;                     ///< of all that has a place of its own
constexpr uint64_t kVhdxFileBytesMax = uint64_t{128} << 40;  ///< twice the largest disk
constexpr uint64_t kVhdxRegionTables = 192 << 10;            ///< what is before is never in the log

/// CRC-32C, which guards all structures of a VHDX.
class Crc32c {
 public:
  void Add(Bytes bytes);
  uint32_t value() const { return ~state_; }

 private:
  uint32_t state_ = ~uint32_t{0};
};

/// Whether the checksum in bytes 4 to 7 is that of all bytes with these four taken for zeroes.
bool VhdxChecksumHolds(Bytes bytes);

/// Of a place of its own, in whole MiB, behind the first.
bool IsVhdxPlace(const FileRange& range);

/// The two headers, MS-VHDX 2.2.2, of which the one with the higher sequence number is valid; the
/// other is what is overwritten next, so that there is one whatever happens.
class VhdxHeaders {
 public:
  /// 0, or a negative errno with the reason in `why`.
  [[nodiscard]] int Load(const ImageFile& file, std::string* why);
  /// Says in both that the file was changed, and its disk, and that the log is empty. All that was
  /// replayed must be stable before.
  [[nodiscard]] int Renew(const ImageFile& file);

  VhdxGuid log_guid() const;
  bool has_log() const { return log_guid() != VhdxGuid{}; }
  FileRange log() const;

 private:
  static constexpr size_t kHeaderBytes = 4096;

  std::array<std::byte, kHeaderBytes> header_;  // the valid one
  size_t slot_ = 0;                             // where it lies
};

}  // namespace vmm
