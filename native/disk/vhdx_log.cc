#include "vhdx_log.h"

#include <errno.h>

#include <algorithm>
#include <array>
#include <vector>

#include "vhdx_header.h"

namespace vmm {
namespace {

constexpr uint64_t kLogBytesMax = 64 << 20;
constexpr size_t kSectorBytes = 4096;
constexpr size_t kEntryHeaderBytes = 64;
constexpr size_t kDescriptorBytes = 32;

using Sector = std::array<std::byte, kSectorBytes>;

/// What is in the header of an entry, MS-VHDX 2.3.1.1. Sizes and offsets in bytes.
struct Entry {
  uint32_t checksum = 0;
  uint32_t length = 0;
  uint32_t tail = 0;  ///< where in the log the sequence begins that it is the last of
  uint64_t sequence = 0;
  uint32_t descriptors = 0;
  uint64_t flushed_file = 0;  ///< what the file had at least when it was written
  uint64_t last_file = 0;     ///< what the file must have for it

  uint64_t descriptor_sectors() const {
    return (kEntryHeaderBytes + uint64_t{descriptors} * kDescriptorBytes + kSectorBytes - 1) /
           kSectorBytes;
  }
};

/// Entries that follow one another, by where they lie.
struct Sequence {
  std::vector<uint64_t> places;
  Entry last;
};

class Log {
 public:
  Log(const ImageFile& file, const FileRange& place, const VhdxGuid& guid)
      : file_(file), place_(place), length_(place.end - place.begin), guid_(guid) {}

  /// The one to carry out: of all that contain their own tail that with the highest number.
  [[nodiscard]] int FindActive(Sequence* out) const;
  /// Writes what the entry at `at` says where it says so.
  [[nodiscard]] int Apply(uint64_t at, uint64_t file_bytes) const;

 private:
  [[nodiscard]] int ReadSector(uint64_t at, Sector* out) const;
  [[nodiscard]] int ReadEntry(uint64_t at, Entry* out, bool* valid) const;
  bool ParseEntry(const Sector& sector, Entry* out) const;
  [[nodiscard]] int ReadSequence(uint64_t at, Sequence* out, uint64_t* end) const;
  [[nodiscard]] int ApplyOne(Bytes descriptor, uint64_t data_at, uint64_t file_bytes) const;

  const ImageFile& file_;
  const FileRange place_;
  const uint64_t length_;
  const VhdxGuid guid_;
};

/// It is a ring.
int Log::ReadSector(uint64_t at, Sector* out) const {
  return file_.Read(place_.begin + at % length_, *out);
}

bool Log::ParseEntry(const Sector& sector, Entry* out) const {
  if (!HasText(sector, 0, "loge") || LoadGuid(sector, 32) != guid_) return false;
  out->checksum = LoadLittle<uint32_t>(sector, 4);
  out->length = LoadLittle<uint32_t>(sector, 8);
  out->tail = LoadLittle<uint32_t>(sector, 12);
  out->sequence = LoadLittle<uint64_t>(sector, 16);
  out->descriptors = LoadLittle<uint32_t>(sector, 24);
  out->flushed_file = LoadLittle<uint64_t>(sector, 48);
  out->last_file = LoadLittle<uint64_t>(sector, 56);
  return out->length % kSectorBytes == 0 && out->length <= length_ && out->sequence != 0 &&
         out->descriptor_sectors() * kSectorBytes <= out->length;
}

/// Looks at one sector of an entry that is none of its first; the first is taken for descriptors.
/// False if it cannot belong to it. Adds to `data` how many sectors of data its descriptors need.
bool CheckSector(const Entry& entry, uint64_t index, const Sector& sector, uint64_t* data) {
  if (index >= entry.descriptor_sectors())
    return HasText(sector, 0, "data") && LoadLittle<uint32_t>(sector, 4) == entry.sequence >> 32 &&
           LoadLittle<uint32_t>(sector, kSectorBytes - 4) == static_cast<uint32_t>(entry.sequence);
  const uint64_t begin = index * kSectorBytes;
  const uint64_t end = kEntryHeaderBytes + uint64_t{entry.descriptors} * kDescriptorBytes;
  for (size_t at = index == 0 ? kEntryHeaderBytes : 0; at < kSectorBytes && begin + at < end;
       at += kDescriptorBytes) {
    if (LoadLittle<uint64_t>(sector, at + 24) != entry.sequence) return false;
    const bool is_data = HasText(sector, at, "desc");
    if (!is_data && !HasText(sector, at, "zero")) return false;
    *data += is_data ? 1 : 0;
  }
  return true;
}

/// No two entries that come to the end of this can overlap, for what begins each of their sectors
/// tells which it is. So trying every place reads the log a few times, not once for each place.
int Log::ReadEntry(uint64_t at, Entry* out, bool* valid) const {
  *valid = false;
  Sector sector;
  int rc = ReadSector(at, &sector);
  if (rc < 0 || !ParseEntry(sector, out)) return rc;
  std::fill_n(sector.begin() + 4, sizeof(uint32_t), std::byte{0});
  Crc32c crc;
  uint64_t data = 0;
  const uint64_t sectors = out->length / kSectorBytes;
  for (uint64_t index = 0; index < sectors; ++index) {
    if (index > 0) rc = ReadSector(at + index * kSectorBytes, &sector);
    if (rc < 0 || !CheckSector(*out, index, sector, &data)) return rc;
    crc.Add(sector);
  }
  *valid = out->descriptor_sectors() + data == sectors && crc.value() == out->checksum;
  return 0;
}

int Log::ReadSequence(uint64_t at, Sequence* out, uint64_t* end) const {
  *end = at;
  while (*end - at < length_) {
    Entry entry;
    bool valid = false;
    if (const int rc = ReadEntry(*end, &entry, &valid); rc < 0) return rc;
    const bool follows = out->places.empty() || entry.sequence == out->last.sequence + 1;
    if (!valid || !follows || *end - at + entry.length > length_) return 0;
    out->places.push_back(*end % length_);
    out->last = entry;
    *end += entry.length;
  }
  return 0;
}

int Log::FindActive(Sequence* out) const {
  for (uint64_t at = 0; at < length_;) {
    Sequence sequence;
    uint64_t end = 0;
    if (const int rc = ReadSequence(at, &sequence, &end); rc < 0) return rc;
    at = std::max(end, at + kSectorBytes);
    auto& places = sequence.places;
    const auto first = std::find(places.begin(), places.end(), sequence.last.tail);
    if (first == places.end() || sequence.last.sequence <= out->last.sequence) continue;
    places.erase(places.begin(), first);
    *out = std::move(sequence);
  }
  return 0;
}

int Log::Apply(uint64_t at, uint64_t file_bytes) const {
  Sector sector;
  Entry entry;
  int rc = ReadSector(at, &sector);
  if (rc < 0 || !ParseEntry(sector, &entry)) return rc < 0 ? rc : -EIO;
  uint64_t data_at = at + entry.descriptor_sectors() * kSectorBytes;
  for (uint64_t index = 0; rc == 0 && index < entry.descriptors; ++index) {
    const uint64_t within = (kEntryHeaderBytes + index * kDescriptorBytes) % kSectorBytes;
    if (within == 0) rc = ReadSector(at + kEntryHeaderBytes + index * kDescriptorBytes, &sector);
    const Bytes descriptor = Bytes(sector).subspan(within, kDescriptorBytes);
    if (rc == 0) rc = ApplyOne(descriptor, data_at, file_bytes);
    if (HasText(descriptor, 0, "desc")) data_at += kSectorBytes;
  }
  return rc;
}

/// -EIO if it is about what is never logged, or not in the file.
int Log::ApplyOne(Bytes descriptor, uint64_t data_at, uint64_t file_bytes) const {
  const bool is_data = HasText(descriptor, 0, "desc");
  const uint64_t length = is_data ? kSectorBytes : LoadLittle<uint64_t>(descriptor, 8);
  const auto begin = LoadLittle<uint64_t>(descriptor, 16);
  if (begin % kSectorBytes != 0 || begin < kVhdxRegionTables || begin > file_bytes ||
      length > file_bytes - begin || FileRange{begin, begin + length}.Overlaps(place_))
    return -EIO;
  if (!is_data) return length == 0 ? 0 : file_.Punch(begin, length);
  Sector sector;
  if (const int rc = ReadSector(data_at, &sector); rc < 0) return rc;
  // The ends of the sector stand in the descriptor: their places in the log have its marks.
  std::copy_n(descriptor.begin() + 8, 8, sector.begin());
  std::copy_n(descriptor.begin() + 4, 4, sector.end() - 4);
  return file_.Write(begin, sector);
}

}  // namespace

int ReplayVhdxLog(const ImageFile& file, const FileRange& place, const VhdxGuid& guid,
                  std::string* why) {
  if (place.end - place.begin > kLogBytesMax)
    return Refuse(-EOPNOTSUPP, why,
                  "It has a log of more than 64 MiB to replay; do so with qemu-img check -r all");
  const Log log(file, place, guid);
  Sequence active;
  int rc = log.FindActive(&active);
  if (rc == 0 && active.places.empty())
    return Refuse(-EINVAL, why,
                  "Its log is damaged, so that its tables may be; repair a copy of it with "
                  "qemu-img check -r all");
  uint64_t file_bytes = 0;
  if (rc == 0) rc = file.Size(&file_bytes);
  if (rc == 0 &&
      (file_bytes < active.last.flushed_file || active.last.last_file > kVhdxFileBytesMax))
    return Refuse(-EINVAL, why, "It is shorter than its log says; restore the image from a copy");
  if (rc == 0 && file_bytes < active.last.last_file) {
    file_bytes = active.last.last_file;
    rc = file.Resize(file_bytes);
  }
  for (const uint64_t at : active.places)
    if (rc == 0) rc = log.Apply(at, file_bytes);
  if (rc == 0) rc = file.Sync();
  return rc < 0 ? Refuse(rc, why,
                         "Its log cannot be replayed; repair a copy of it with qemu-img "
                         "check -r all")
                : 0;
}

}  // namespace vmm
