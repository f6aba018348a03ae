#include "vhd_dynamic.h"

#include <errno.h>

#include <algorithm>

#include "vhd_bytes.h"

namespace vmm {
namespace {

/// Data of new blocks begin at a page of the file, so that a page of the guest's is one of them.
constexpr uint64_t kDataAlign = 4096;
constexpr size_t kZeroesBytes = 64 << 10;
constexpr std::byte kAllSectors{0xff};

bool HasSector(Bytes bitmap, uint64_t sector) {
  return (bitmap[sector / 8] & (std::byte{0x80} >> (sector % 8))) != std::byte{0};
}

int WriteZeroes(const ImageFile& file, uint64_t offset, uint64_t length) {
  const std::vector<std::byte> zeroes(std::min<uint64_t>(length, kZeroesBytes));
  while (length > 0) {
    const Bytes part = Bytes(zeroes).first(std::min<uint64_t>(length, zeroes.size()));
    if (const int rc = file.Write(offset, part); rc < 0) return rc;
    offset += part.size();
    length -= part.size();
  }
  return 0;
}

}  // namespace

VhdDynamic::VhdDynamic(const Options& options, uint64_t size_bytes)
    : VhdBase(options.file, size_bytes, options.readonly), footer_(options.footer) {
  const uint64_t sectors = options.file_bytes / kVhdSectorBytes;
  file_end_ = blocks_end_ = (sectors - (options.ends_in_footer ? 1 : 0)) * kVhdSectorBytes;
}

int VhdDynamic::Open(const Options& options, std::unique_ptr<Image>* out, std::string* why) {
  VhdFooter footer;
  if (!ParseVhdFooter(options.footer, &footer) || footer.type != VhdFooter::kDynamic ||
      footer.size_bytes == 0 || footer.size_bytes % kVhdSectorBytes != 0) {
    *why = "The copy of its footer in front is damaged; restore the image from a copy";
    return -EINVAL;
  }
  if (!options.readonly && options.file.align_bytes > kVhdSectorBytes) {
    *why = "A dynamic VHD has blocks at any 512 bytes, and direct I/O here needs " +
           std::to_string(options.file.align_bytes) + "; use direct=off";
    return -EOPNOTSUPP;
  }
  std::unique_ptr<VhdDynamic> image(new VhdDynamic(options, footer.size_bytes));
  if (const int rc = image->Load(footer.header_offset, why); rc < 0) return rc;
  if (const int rc = image->RestoreFooter(options.ends_in_footer); rc < 0) {
    *why = "Its footer is missing and cannot be put back";
    return rc;
  }
  *out = std::move(image);
  return 0;
}

/// Reads the header, which a pure function looks at, and the table.
int VhdDynamic::Load(uint64_t header_offset, std::string* why) {
  std::array<std::byte, kVhdHeaderBytes> bytes;
  *why = "Its dynamic header is at " + std::to_string(header_offset) +
         ", where it cannot be read; restore the image from a copy";
  if (header_offset < kVhdSectorBytes || header_offset > file_end_) return -EINVAL;
  if (const int rc = file_.Read(header_offset, bytes); rc < 0) return rc;
  VhdHeader header;
  if (!ParseVhdHeader(bytes, size_bytes_, &header, why)) return -EINVAL;

  block_bytes_ = header.block_bytes;
  bitmap_bytes_ = AlignUp(block_bytes_ / kVhdSectorBytes / 8, kVhdSectorBytes);
  const uint64_t blocks = (size_bytes_ - 1) / block_bytes_ + 1;
  const uint64_t table_bytes = AlignUp(blocks * sizeof(uint32_t), kVhdSectorBytes);
  *why = "Its table of blocks is at " + std::to_string(header.table_offset) +
         ", where none can be; restore the image from a copy";
  if (header.table_offset % kVhdSectorBytes != 0 || header.table_offset > file_end_) return -EINVAL;
  reserved_ = {{{0, kVhdSectorBytes},
                {header_offset, header_offset + kVhdHeaderBytes},
                {header.table_offset, header.table_offset + table_bytes}}};
  if (reserved_[2].Overlaps(reserved_[0]) || reserved_[2].Overlaps(reserved_[1])) return -EINVAL;
  if (reserved_[2].end > file_end_) return -EINVAL;
  whole_.assign(blocks, false);
  bitmap_.resize(bitmap_bytes_);
  const int rc = table_.Load(file_, header.table_offset, blocks * sizeof(uint32_t));
  if (file_.file().block_device) blocks_end_ = UsedEnd();
  return rc;
}

/// Where all ends that the image has but the last footer.
uint64_t VhdDynamic::UsedEnd() const {
  uint64_t end = 0;
  for (const FileRange& range : reserved_) end = std::max(end, range.end);
  for (uint64_t block = 0; block < whole_.size(); ++block) {
    uint64_t data = 0;
    if (Find(block, &data) == 0 && data != 0) end = std::max(end, data + block_bytes_);
  }
  return end;
}

/// Nothing is cut off to do so: what lies there may be of use to whoever repairs the image.
int VhdDynamic::RestoreFooter(bool there) {
  if (there || readonly_ || file_.file().block_device) return 0;
  uint64_t file_bytes = 0;
  int rc = file_.Size(&file_bytes);
  if (rc == 0) rc = file_.Write(AlignUp(file_bytes, kVhdSectorBytes), footer_);
  if (rc == 0) file_end_ = blocks_end_ = AlignUp(file_bytes, kVhdSectorBytes);
  return rc;
}

VhdDynamic::~VhdDynamic() {
  // Whoever wanted to know has flushed before.
  static_cast<void>(Flush());
}

int VhdDynamic::Read(DiskRange range, Extent* out) {
  const std::lock_guard lock(mutex_);
  *out = {};
  out->length = RestOfBlock(range);
  const uint64_t block = range.offset / block_bytes_;
  uint64_t data = 0;
  int rc = Find(block, &data);
  if (rc < 0 || data == 0) return rc;
  const uint64_t within = range.offset % block_bytes_;
  bool present = true;
  rc = LoadBitmap(block, data);
  if (rc < 0) return rc;
  if (!whole_[block]) {
    const uint64_t end = RunAt(within / kVhdSectorBytes, &present) * kVhdSectorBytes;
    out->length = std::min(out->length, end - within);
  }
  if (!present) return 0;
  out->kind = Extent::Kind::kFile;
  out->offset = data + within;
  return 0;
}

int VhdDynamic::Place(DiskRange range, uint64_t* offset, uint64_t* length) {
  const std::lock_guard lock(mutex_);
  const uint64_t block = range.offset / block_bytes_;
  uint64_t data = 0;
  int rc = Find(block, &data);
  if (rc == 0) rc = data == 0 ? Allocate(block, &data) : Complete(block, data);
  if (rc < 0) return rc;
  *offset = data + range.offset % block_bytes_;
  *length = RestOfBlock(range);
  return 0;
}

int VhdDynamic::Flush() { return table_.Flush(file_, &mutex_); }

uint64_t VhdDynamic::RestOfBlock(const DiskRange& range) const {
  return std::min(range.length, block_bytes_ - range.offset % block_bytes_);
}

/// Where the data of the block begin in the file, 0 if it is not there. -EIO if they cannot be
/// where the table says.
int VhdDynamic::Find(uint64_t block, uint64_t* data) const {
  const auto entry = LoadBig<uint32_t>(table_.bytes(), block * sizeof(uint32_t));
  *data = 0;
  if (entry == kVhdNoBlock) return 0;
  const uint64_t begin = entry * uint64_t{kVhdSectorBytes};
  const FileRange all{begin, begin + bitmap_bytes_ + block_bytes_};
  if (all.end > file_end_) return -EIO;
  for (const FileRange& other : reserved_)
    if (all.Overlaps(other)) return -EIO;
  *data = begin + bitmap_bytes_;
  return 0;
}

/// The footer goes first: it makes the file long enough, so that the rest of the block is zeroes.
int VhdDynamic::Allocate(uint64_t block, uint64_t* data) {
  const uint64_t at = AlignUp(blocks_end_ + kVhdSectorBytes + bitmap_bytes_, kDataAlign);
  const uint64_t entry = (at - bitmap_bytes_) / kVhdSectorBytes;
  if (entry >= kVhdNoBlock) return -ENOSPC;
  const uint64_t end = at + block_bytes_;
  int rc = 0;
  if (file_.file().block_device)
    rc = end + kVhdSectorBytes > file_end_ ? -ENOSPC : file_.Punch(at, block_bytes_);
  else
    rc = file_.CutTo(blocks_end_ + kVhdSectorBytes);
  if (rc == 0) rc = file_.Write(end, footer_);
  const std::vector<std::byte> bitmap(bitmap_bytes_, kAllSectors);
  if (rc == 0) rc = file_.Write(at - bitmap_bytes_, bitmap);
  if (rc < 0) return rc;
  blocks_end_ = end;
  file_end_ = std::max(file_end_, end);
  std::array<std::byte, sizeof(uint32_t)> bytes;
  StoreBig(bytes, 0, static_cast<uint32_t>(entry));
  table_.Set(block * sizeof(uint32_t), bytes);
  whole_[block] = true;
  *data = at;
  return 0;
}

/// Has the bitmap in `bitmap_`, unless the block is known to be whole.
int VhdDynamic::LoadBitmap(uint64_t block, uint64_t data) {
  if (whole_[block]) return 0;
  if (const int rc = file_.Read(data - bitmap_bytes_, bitmap_); rc < 0) return rc;
  const Bytes used = Bytes(bitmap_).first(block_bytes_ / kVhdSectorBytes / 8);
  whole_[block] =
      std::all_of(used.begin(), used.end(), [](std::byte byte) { return byte == kAllSectors; });
  return 0;
}

/// Gives the block the sectors that it does not have, so that no write needs to change its bitmap.
/// All writers of today make whole blocks; images of others pay for this once for each block.
int VhdDynamic::Complete(uint64_t block, uint64_t data) {
  int rc = LoadBitmap(block, data);
  if (rc < 0 || whole_[block]) return rc;
  const uint64_t sectors = block_bytes_ / kVhdSectorBytes;
  for (uint64_t sector = 0; sector < sectors;) {
    bool present = false;
    const uint64_t end = RunAt(sector, &present);
    if (!present)
      rc = WriteZeroes(file_, data + sector * kVhdSectorBytes, (end - sector) * kVhdSectorBytes);
    if (rc < 0) return rc;
    sector = end;
  }
  // Else the bitmap could be stable before the zeroes are.
  rc = file_.Sync();
  std::fill(bitmap_.begin(), bitmap_.end(), kAllSectors);
  if (rc == 0) rc = file_.Write(data - bitmap_bytes_, bitmap_);
  if (rc == 0) whole_[block] = true;
  return rc;
}

/// Where the sectors end that are all there, or all not, as `sector` is.
uint64_t VhdDynamic::RunAt(uint64_t sector, bool* present) const {
  *present = HasSector(bitmap_, sector);
  const uint64_t sectors = block_bytes_ / kVhdSectorBytes;
  while (++sector < sectors && HasSector(bitmap_, sector) == *present) continue;
  return sector;
}

}  // namespace vmm
