#include "vhdx.h"

#include <errno.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <utility>

#include "vhd_base.h"
#include "vhd_bytes.h"
#include "vhd_table.h"
#include "vhdx_header.h"
#include "vhdx_layout.h"
#include "vhdx_log.h"

namespace vmm {
namespace {

/// What an entry of the table says of its block, MS-VHDX 2.5.1.1.
enum class BlockState : uint8_t { kNone, kUndefined, kZero, kUnmapped, kPresent = 6 };
constexpr uint64_t kStateMask = 7;

/// New blocks go to the end of the file, which makes them zeroes; on a block device, behind all
/// that the image says it has there.
///
/// The specification has changes of tables go through the log, so that none is ever seen in part.
/// Here each change is one entry, of 8 bytes that lie in one sector, and no entry depends on
/// another; it is written when the block that it names is stable (VhdTable). So each sector of the
/// table is right whether or not the last write of it came through, and the log stays empty.
class VhdxImage final : public VhdBase {
 public:
  VhdxImage(const File& file, VhdxLayout layout, bool readonly, uint64_t file_bytes)
      : VhdBase(file, layout.size_bytes, readonly),
        layout_(std::move(layout)),
        file_bytes_(file_bytes),
        blocks_end_(file_bytes) {}
  ~VhdxImage() override {
    // Whoever wanted to know has flushed before.
    static_cast<void>(table_.Flush(file_, &mutex_));
  }
  VhdxImage(const VhdxImage&) = delete;
  VhdxImage& operator=(const VhdxImage&) = delete;

  [[nodiscard]] int LoadTable() {
    const int rc = table_.Load(file_, layout_.table_offset, layout_.entries * sizeof(uint64_t));
    if (file_.file().block_device) blocks_end_ = UsedEnd();
    return rc;
  }

  uint32_t sector_bytes() const override { return layout_.sector_bytes; }
  int Read(DiskRange range, Extent* out) override;
  int Flush() override { return table_.Flush(file_, &mutex_); }

 private:
  int Place(DiskRange range, uint64_t* offset, uint64_t* length) override;
  [[nodiscard]] int Find(uint64_t block, uint64_t* data) const;
  [[nodiscard]] int Allocate(uint64_t block, uint64_t* data);
  [[nodiscard]] int MakeRoom(uint64_t begin, uint64_t end);
  bool IsFree(const FileRange& range) const;
  uint64_t UsedEnd() const;

  size_t EntryAt(uint64_t block) const {
    return (block + block / layout_.ratio) * sizeof(uint64_t);
  }
  uint64_t RestOfBlock(const DiskRange& range) const {
    return std::min(range.length, layout_.block_bytes - range.offset % layout_.block_bytes);
  }

  const VhdxLayout layout_;
  std::mutex mutex_;
  // All below are guarded by it.
  VhdTable table_;
  uint64_t file_bytes_;
  uint64_t blocks_end_;  // a new block goes behind it
};

int VhdxImage::Read(DiskRange range, Extent* out) {
  const std::lock_guard lock(mutex_);
  *out = {};
  out->length = RestOfBlock(range);
  uint64_t data = 0;
  const int rc = Find(range.offset / layout_.block_bytes, &data);
  if (rc < 0 || data == 0) return rc;
  out->kind = Extent::Kind::kFile;
  out->offset = data + range.offset % layout_.block_bytes;
  return 0;
}

int VhdxImage::Place(DiskRange range, uint64_t* offset, uint64_t* length) {
  const std::lock_guard lock(mutex_);
  const uint64_t block = range.offset / layout_.block_bytes;
  uint64_t data = 0;
  int rc = Find(block, &data);
  if (rc == 0 && data == 0) rc = Allocate(block, &data);
  if (rc < 0) return rc;
  *offset = data + range.offset % layout_.block_bytes;
  *length = RestOfBlock(range);
  return 0;
}

/// Where the block begins in the file, 0 if it is not there. -EIO if it cannot be where the table
/// says, or in the state that it says. The last block may be there only as far as the disk goes.
int VhdxImage::Find(uint64_t block, uint64_t* data) const {
  const auto entry = LoadLittle<uint64_t>(table_.bytes(), EntryAt(block));
  *data = 0;
  switch (static_cast<BlockState>(entry & kStateMask)) {
    case BlockState::kNone:
    case BlockState::kUndefined:
    case BlockState::kZero:
    case BlockState::kUnmapped:
      return 0;
    case BlockState::kPresent:
      break;
    default:
      return -EIO;
  }
  const uint64_t begin = entry / kVhdxAlign * kVhdxAlign;
  const uint64_t length =
      std::min<uint64_t>(layout_.block_bytes, size_bytes_ - block * layout_.block_bytes);
  if (begin > file_bytes_ || length > file_bytes_ - begin || !IsFree({begin, begin + length}))
    return -EIO;
  *data = begin;
  return 0;
}

bool VhdxImage::IsFree(const FileRange& range) const {
  const auto& reserved = layout_.reserved;  // none overlaps another, so their ends are in order too
  const auto after =
      std::partition_point(reserved.begin(), reserved.end(),
                           [&range](const FileRange& other) { return other.end <= range.begin; });
  return after == reserved.end() || !after->Overlaps(range);
}

/// Where all ends that the image has, blocks that were given up and have a place too.
uint64_t VhdxImage::UsedEnd() const {
  uint64_t end = layout_.reserved.back().end;
  for (uint64_t block = 0; block < layout_.blocks; ++block) {
    const auto entry = LoadLittle<uint64_t>(table_.bytes(), EntryAt(block));
    const uint64_t begin = entry / kVhdxAlign * kVhdxAlign;
    if (begin != 0 && begin < file_bytes_) end = std::max(end, begin + layout_.block_bytes);
  }
  return end;
}

/// A block that was given up may still have a place, but nobody can say that it holds zeroes.
int VhdxImage::Allocate(uint64_t block, uint64_t* data) {
  const uint64_t begin = AlignUp(blocks_end_, kVhdxAlign);
  const uint64_t end = begin + layout_.block_bytes;
  if (end > kVhdxFileBytesMax) return -ENOSPC;
  if (const int rc = MakeRoom(begin, end); rc < 0) return rc;
  blocks_end_ = end;
  std::array<std::byte, sizeof(uint64_t)> entry;
  StoreLittle(entry, 0, begin | static_cast<uint64_t>(BlockState::kPresent));
  table_.Set(EntryAt(block), entry);
  *data = begin;
  return 0;
}

/// Of zeroes. A device has the size that it has.
int VhdxImage::MakeRoom(uint64_t begin, uint64_t end) {
  if (file_.file().block_device)
    return end > file_bytes_ ? -ENOSPC : file_.Punch(begin, end - begin);
  int rc = file_.CutTo(file_bytes_);
  if (rc == 0) rc = file_.Resize(end);
  if (rc == 0) file_bytes_ = end;
  return rc;
}

/// Replays the log if it holds anything.
int Recover(const ImageFile& image, const VhdxHeaders& headers, bool readonly, std::string* why) {
  if (!headers.has_log()) return 0;
  if (readonly)
    return Refuse(-EROFS, why,
                  "It was not closed, and its log cannot be replayed into a read-only image; open "
                  "it once for writing, or use qemu-img check -r all");
  uint64_t file_bytes = 0;
  const int rc = image.Size(&file_bytes);
  if (rc < 0) return Refuse(rc, why, "Its size cannot be told");
  if (headers.log().end > file_bytes)
    return Refuse(-EINVAL, why, "Its log lies behind its end; restore the image from a copy");
  return ReplayVhdxLog(image, headers.log(), headers.log_guid(), why);
}

}  // namespace

bool IsVhdx(std::span<const std::byte> first_sector) {
  return first_sector.size() >= 8 && HasText(first_sector, 0, "vhdxfile");
}

int OpenVhdx(const File& file, bool readonly, std::unique_ptr<Image>* out, std::string* why) {
  const ImageFile image(file);
  std::array<std::byte, 8> signature;
  int rc = image.Read(0, signature);
  if (rc < 0 || !IsVhdx(signature))
    return Refuse(-EINVAL, why, "It is no VHDX; check its type, or restore it from a copy");
  VhdxHeaders headers;
  rc = headers.Load(image, why);
  if (rc == 0) rc = Recover(image, headers, readonly, why);
  if (rc < 0) return rc;
  uint64_t file_bytes = 0;
  rc = image.Size(&file_bytes);
  if (rc < 0 || file_bytes > kVhdxFileBytesMax)
    return Refuse(rc < 0 ? rc : -EFBIG, why, "Its file is larger than any VHDX; check its type");
  VhdxLayout layout;
  rc = LoadVhdxLayout(image, file_bytes, headers.log(), &layout, why);
  if (rc < 0) return rc;
  auto opened = std::make_unique<VhdxImage>(file, std::move(layout), readonly, file_bytes);
  rc = opened->LoadTable();
  if (rc < 0) return Refuse(rc, why, "Its table of blocks cannot be read");
  if (!readonly) rc = headers.Renew(image);
  if (rc < 0) return Refuse(rc, why, "Its headers cannot be written; open it read-only");
  *out = std::move(opened);
  return 0;
}

}  // namespace vmm
