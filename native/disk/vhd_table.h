#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "image_file.h"

namespace vmm {

/// A block allocation table: all of it is kept in memory, and what was changed reaches the file
/// when that is asked for.
class VhdTable {
 public:
  /// 0 or a negative errno. `offset` and `size_bytes` are of the file.
  [[nodiscard]] int Load(const ImageFile& file, uint64_t offset, size_t size_bytes);

  std::span<const std::byte> bytes() const { return bytes_; }
  /// `entry` lies within one sector.
  void Set(size_t at, std::span<const std::byte> entry);

  /// Writes what was changed, after a Sync of what it speaks of: no table in the file ever names a
  /// block that may not be there after a crash of the host. The write may be lost until the next
  /// Sync. `guard` is what Set is called under; it is free during the Sync, which may take long.
  [[nodiscard]] int Flush(const ImageFile& file, std::mutex* guard);

 private:
  static constexpr size_t kPageBytes = 4096;
  struct Page {
    size_t index = 0;
    std::vector<std::byte> bytes;
  };

  std::vector<Page> TakeChanged();
  [[nodiscard]] int Write(const ImageFile& file, const std::vector<Page>& pages) const;

  uint64_t offset_ = 0;
  std::vector<std::byte> bytes_;
  std::vector<bool> changed_;  // one for each page
  bool any_changed_ = false;
  std::mutex flushing_;  // else an older copy of a page could follow a newer one
};

}  // namespace vmm
