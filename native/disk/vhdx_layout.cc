#include "vhdx_layout.h"

#include <errno.h>

#include <algorithm>
#include <array>
#include <bit>
#include <iterator>

#include "vhdx_header.h"

namespace vmm {
namespace {

constexpr uint64_t kRegionTables[] = {kVhdxRegionTables, kVhdxRegionTables + (64 << 10)};
constexpr size_t kTableBytes = 64 << 10;  // of regions, and of metadata
constexpr size_t kEntryBytes = 32;
constexpr uint32_t kEntriesMax = 2047;
constexpr uint32_t kRegionRequired = 1;
constexpr uint32_t kItemRequired = 4;

constexpr uint32_t kBlockBytesMin = 1 << 20;
constexpr uint32_t kBlockBytesMax = 256 << 20;
constexpr uint64_t kDiskBytesMax = uint64_t{64} << 40;
constexpr uint64_t kSectorsOfBitmap = 1 << 23;
constexpr uint64_t kBlockTableBytesMax = 24 << 20;
constexpr uint64_t kHasParent = 2;

constexpr VhdxGuid kBlockTable = GuidOf("2DC27766-F623-4200-9D64-115E9BFD4A08");
constexpr VhdxGuid kMetadata = GuidOf("8B7CA206-4790-4B9A-B8FE-575F050F886E");

enum Item : size_t { kParameters, kDiskSize, kSector, kPhysicalSector, kPage83, kParent, kItems };
constexpr VhdxGuid kItemGuids[] = {
    GuidOf("CAA16737-FA36-4D43-B3B6-33F0AA44E76B"), GuidOf("2FA54224-CD1B-4876-B211-5DBED83BF4B8"),
    GuidOf("8141BF1D-A96F-4709-BA47-F233A8FAAB5F"), GuidOf("CDA348C7-445D-4471-9CC9-E9885251C556"),
    GuidOf("BECA12AB-B2E6-4523-93EF-C309E000C746"), GuidOf("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C"),
};
constexpr size_t kItemBytes[] = {8, 8, 4, 4};  // of those that are read

using Table = std::vector<std::byte>;
/// What is read of the metadata, each in the file; nowhere if its end is 0.
using Items = std::array<FileRange, kItems>;

int RefuseDamaged(const char* what, std::string* why) {
  return Refuse(-EINVAL, why, std::string(what) + "; restore the image from a copy");
}

int RefuseUnknown(const char* what, const VhdxGuid& guid, std::string* why) {
  return Refuse(-EOPNOTSUPP, why,
                std::string("It needs ") + what + " " + TextOf(guid) +
                    ", which is not known here; convert it where it was made");
}

/// The first of the two region tables that is whole.
int ReadRegionTable(const ImageFile& file, Table* out, std::string* why) {
  out->resize(kTableBytes);
  for (const uint64_t offset : kRegionTables) {
    if (const int rc = file.Read(offset, *out); rc < 0)
      return Refuse(rc, why, "Its region table cannot be read; restore the image from a copy");
    if (HasText(*out, 0, "regi") && VhdxChecksumHolds(*out) &&
        LoadLittle<uint32_t>(*out, 8) <= kEntriesMax)
      return 0;
  }
  return RefuseDamaged("Both of its region tables are damaged", why);
}

int ParseRegions(const Table& table, uint64_t file_bytes, FileRange* block_table,
                 FileRange* metadata, std::vector<FileRange>* reserved, std::string* why) {
  const auto count = LoadLittle<uint32_t>(table, 8);
  for (size_t at = 16; at < 16 + count * kEntryBytes; at += kEntryBytes) {
    const VhdxGuid guid = LoadGuid(table, at);
    const auto begin = LoadLittle<uint64_t>(table, at + 16);
    const FileRange region{begin, begin + LoadLittle<uint32_t>(table, at + 24)};
    const bool required = (LoadLittle<uint32_t>(table, at + 28) & kRegionRequired) != 0;
    if (!IsVhdxPlace(region) || region.end > file_bytes)
      return RefuseDamaged("A region of it lies where none can be", why);
    reserved->push_back(region);
    if (guid == kBlockTable)
      *block_table = region;
    else if (guid == kMetadata)
      *metadata = region;
    else if (required)
      return RefuseUnknown("a region", guid, why);
  }
  const auto by_begin = [](const FileRange& a, const FileRange& b) { return a.begin < b.begin; };
  std::sort(reserved->begin(), reserved->end(), by_begin);
  const auto overlap = [](const FileRange& a, const FileRange& b) { return a.Overlaps(b); };
  if (std::adjacent_find(reserved->begin(), reserved->end(), overlap) != reserved->end())
    return RefuseDamaged("Regions of it overlap", why);
  if (block_table->end == 0 || metadata->end == 0)
    return RefuseDamaged("It has no table of blocks or no metadata", why);
  return 0;
}

int FindItems(const Table& table, const FileRange& metadata, Items* out, std::string* why) {
  const auto count = LoadLittle<uint16_t>(table, 10);
  if (!HasText(table, 0, "metadata") || count > kEntriesMax)
    return RefuseDamaged("Its metadata are damaged", why);
  for (size_t at = 32; at < 32 + count * kEntryBytes; at += kEntryBytes) {
    const VhdxGuid guid = LoadGuid(table, at);
    const uint64_t begin = metadata.begin + LoadLittle<uint32_t>(table, at + 16);
    const FileRange place{begin, begin + LoadLittle<uint32_t>(table, at + 20)};
    const bool required = (LoadLittle<uint32_t>(table, at + 24) & kItemRequired) != 0;
    const auto* const known = std::find(std::begin(kItemGuids), std::end(kItemGuids), guid);
    const auto item = static_cast<size_t>(known - kItemGuids);
    if (item == kItems && required) return RefuseUnknown("the metadata item", guid, why);
    if (item == kItems) continue;
    if (item < std::size(kItemBytes) &&
        (place.end - place.begin != kItemBytes[item] || place.end > metadata.end))
      return RefuseDamaged("An item of its metadata has no place there", why);
    (*out)[item] = place;
  }
  return 0;
}

int ReadItem(const ImageFile& file, const FileRange& place, uint64_t* out) {
  *out = 0;
  if (place.end == 0) return -EINVAL;
  std::array<std::byte, sizeof(uint64_t)> bytes{};
  const int rc = file.Read(place.begin, std::span(bytes).first(place.end - place.begin));
  *out = LoadLittle<uint64_t>(bytes, 0);
  return rc;
}

int CheckDisk(const VhdxLayout& disk, uint64_t physical, std::string* why) {
  const auto is_sector = [](uint64_t bytes) { return bytes == 512 || bytes == 4096; };
  if (!is_sector(disk.sector_bytes) || !is_sector(physical))
    return Refuse(-EINVAL, why,
                  "Its sectors have " + std::to_string(disk.sector_bytes) + " and " +
                      std::to_string(physical) +
                      " bytes, not 512 or 4096; restore the image from a copy");
  if (!std::has_single_bit(disk.block_bytes) || disk.block_bytes < kBlockBytesMin ||
      disk.block_bytes > kBlockBytesMax)
    return Refuse(-EINVAL, why,
                  "Its blocks have " + std::to_string(disk.block_bytes) +
                      " bytes, not a power of two from 1 MiB to 256 MiB; restore the image from "
                      "a copy");
  if (disk.size_bytes == 0 || disk.size_bytes % disk.sector_bytes != 0 ||
      disk.size_bytes > kDiskBytesMax)
    return Refuse(-EINVAL, why,
                  "Its disk has " + std::to_string(disk.size_bytes) +
                      " bytes, not whole sectors up to 64 TiB; restore the image from a copy");
  return 0;
}

int ReadDisk(const ImageFile& file, const FileRange& metadata, VhdxLayout* out, std::string* why) {
  Table table(kTableBytes);
  int rc = file.Read(metadata.begin, table);
  Items items{};
  if (rc == 0) rc = FindItems(table, metadata, &items, why);
  if (rc < 0) return rc;
  std::array<uint64_t, std::size(kItemBytes)> values{};
  for (size_t item = 0; item < values.size(); ++item)
    if (rc = ReadItem(file, items[item], &values[item]); rc < 0)
      return Refuse(rc, why, "It lacks required metadata; restore the image from a copy");
  out->size_bytes = values[kDiskSize];
  out->sector_bytes = static_cast<uint32_t>(values[kSector]);
  out->block_bytes = static_cast<uint32_t>(values[kParameters]);
  if ((values[kParameters] >> 32 & kHasParent) != 0)
    return Refuse(-EOPNOTSUPP, why,
                  "It is a differencing disk, which is nothing without its parent; merge the two "
                  "with Merge-VHD of Hyper-V and use what comes of it");
  return CheckDisk(*out, values[kPhysicalSector], why);
}

}  // namespace

int LoadVhdxLayout(const ImageFile& file, uint64_t file_bytes, const FileRange& log,
                   VhdxLayout* out, std::string* why) {
  out->reserved = {{0, kVhdxAlign}};
  if (IsVhdxPlace(log)) out->reserved.push_back(log);
  Table table;
  FileRange block_table, metadata;
  int rc = ReadRegionTable(file, &table, why);
  if (rc == 0) rc = ParseRegions(table, file_bytes, &block_table, &metadata, &out->reserved, why);
  if (rc == 0) rc = ReadDisk(file, metadata, out, why);
  if (rc < 0) return rc;

  // MS-VHDX 2.5: after as many blocks as one bitmap of sectors covers comes an entry for that.
  out->table_offset = block_table.begin;
  out->blocks = (out->size_bytes - 1) / out->block_bytes + 1;
  out->ratio = kSectorsOfBitmap * out->sector_bytes / out->block_bytes;
  out->entries = out->blocks + (out->blocks - 1) / out->ratio;
  const uint64_t table_bytes = out->entries * sizeof(uint64_t);
  if (table_bytes > block_table.end - block_table.begin)
    return RefuseDamaged("Its table of blocks is too short for its disk", why);
  if (table_bytes > kBlockTableBytesMax)
    return Refuse(-EOPNOTSUPP, why,
                  "It has " + std::to_string(out->blocks) +
                      " blocks, more than 3 million; convert it to larger ones, with qemu-img "
                      "convert -o block_size=256M");
  return 0;
}

}  // namespace vmm
