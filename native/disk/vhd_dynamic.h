#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "vhd_base.h"
#include "vhd_footer.h"
#include "vhd_table.h"

namespace vmm {

/// A dynamic VHD: footer, header and table of blocks in front, then the blocks in the order in
/// which they were first written, each behind a bitmap of the sectors that it has, and the footer
/// once more.
///
/// A new block is put behind the footer, which so is never overwritten, and a new footer behind
/// that; on a block device too, which may go on behind them. Wherever that is cut off, the copy in
/// front opens the image; the table in the file names the block once all of this is stable
/// (VhdTable). What a crash leaves is room that is not used.
class VhdDynamic final : public VhdBase {
 public:
  struct Options {
    const File& file;
    bool readonly;
    uint64_t file_bytes;
    const std::array<std::byte, kVhdSectorBytes>& footer;  ///< the copy in front
    bool ends_in_footer;
  };
  static int Open(const Options& options, std::unique_ptr<Image>* out, std::string* why);
  ~VhdDynamic() override;
  VhdDynamic(const VhdDynamic&) = delete;
  VhdDynamic& operator=(const VhdDynamic&) = delete;

  int Read(DiskRange range, Extent* out) override;
  int Flush() override;

 private:
  VhdDynamic(const Options& options, uint64_t size_bytes);
  [[nodiscard]] int Load(uint64_t header_offset, std::string* why);
  [[nodiscard]] int RestoreFooter(bool there);

  int Place(DiskRange range, uint64_t* offset, uint64_t* length) override;
  uint64_t RestOfBlock(const DiskRange& range) const;
  [[nodiscard]] int Find(uint64_t block, uint64_t* data) const;
  [[nodiscard]] int Allocate(uint64_t block, uint64_t* data);
  uint64_t UsedEnd() const;
  [[nodiscard]] int LoadBitmap(uint64_t block, uint64_t data);
  [[nodiscard]] int Complete(uint64_t block, uint64_t data);
  uint64_t RunAt(uint64_t sector, bool* present) const;

  std::array<std::byte, kVhdSectorBytes> footer_;
  uint64_t block_bytes_ = 0;
  uint64_t bitmap_bytes_ = 0;
  std::array<FileRange, 3> reserved_;  // the copy of the footer, the header, the table

  std::mutex mutex_;
  // All below are guarded by it.
  VhdTable table_;
  std::vector<bool> whole_;        // blocks that are known to have all of their sectors
  std::vector<std::byte> bitmap_;  // of the block that was looked at last and is not whole
  uint64_t file_end_ = 0;          // without the last footer
  uint64_t blocks_end_ = 0;        // a footer and new blocks go behind it
};

}  // namespace vmm
