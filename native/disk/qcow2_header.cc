#include "qcow2_header.h"

#include <algorithm>
#include <cstring>

#include "qcow2_format.h"

namespace vmm {
namespace {

using qcow2::LoadBe32;
using qcow2::LoadBe64;
using Bytes = std::span<const std::byte>;

// Where things are in the header.
constexpr size_t kVersion = 4;
constexpr size_t kBackingOffset = 8;
constexpr size_t kBackingLength = 16;
constexpr size_t kClusterBits = 20;
constexpr size_t kSize = 24;
constexpr size_t kEncryption = 32;
constexpr size_t kL1Entries = 36;
constexpr size_t kL1Offset = 40;
constexpr size_t kRefcountTableOffset = 48;
constexpr size_t kRefcountTableClusters = 56;
constexpr size_t kHeaderBytesV2 = 72;
constexpr size_t kIncompatible = 72;
constexpr size_t kAutoclear = 88;
constexpr size_t kRefcountOrder = 96;
constexpr size_t kHeaderLength = 100;
constexpr size_t kHeaderBytesV3 = 104;
constexpr size_t kCompressionType = 104;

constexpr uint64_t kDirty = 1;
constexpr uint64_t kCorrupt = 2;
constexpr uint64_t kExternalData = 4;
constexpr uint64_t kCompressionNamed = 8;
constexpr uint64_t kExtendedL2 = 16;
constexpr uint64_t kKnown = 31;

constexpr uint32_t kExtensionEnd = 0;
constexpr uint32_t kExtensionBackingFormat = 0xe279'2aca;
constexpr size_t kExtensionHeadBytes = 8;

// What is kept of these tables in memory, and of where the tables are that they name, must stay
// well below 64 MiB in all. They serve disks of 32 GiB with clusters of 512 bytes, of 2 TiB with
// 4 KiB, and ones that no guest has with 64 KiB.
constexpr uint64_t kL1BytesMax = 8 << 20;
constexpr uint64_t kRefcountTableBytesMax = 4 << 20;
constexpr size_t kNameBytesMax = 1023;

const char kConvert[] = "; 'qemu-img convert -O qcow2' makes an image without it";
const char kRepair[] = "; 'qemu-img check -r all' repairs it";
const char kLargerClusters[] = "; 'qemu-img convert -O qcow2 -o cluster_size=64k' makes a smaller";

std::string CheckFeatures(uint64_t incompatible, bool readonly) {
  if ((incompatible & kExternalData) != 0)
    return std::string("its data is in a file of its own, which is not supported") + kConvert;
  if ((incompatible & kExtendedL2) != 0)
    return std::string("it has extended L2 entries, which are not supported") + kConvert;
  if ((incompatible & ~kKnown) != 0)
    return "it has unknown incompatible features, bits " + std::to_string(incompatible & ~kKnown) +
           kConvert;
  if (!readonly && (incompatible & kCorrupt) != 0)
    return std::string("it is marked as corrupt") + kRepair;
  if (!readonly && (incompatible & kDirty) != 0)
    return std::string("it is marked as in use when its last user ended") + kRepair;
  return "";
}

std::string ParseV3(Bytes bytes, bool readonly, size_t* header_bytes, Qcow2Header* out) {
  if (bytes.size() < kHeaderBytesV3) return "its header is cut short";
  const uint64_t incompatible = LoadBe64(&bytes[kIncompatible]);
  if (std::string why = CheckFeatures(incompatible, readonly); !why.empty()) return why;
  out->autoclear = LoadBe64(&bytes[kAutoclear]);
  out->refcount_order = LoadBe32(&bytes[kRefcountOrder]);
  if (out->refcount_order > 6) return "it has refcounts of more than 64 bits";
  *header_bytes = LoadBe32(&bytes[kHeaderLength]);
  if (*header_bytes < kHeaderBytesV3 || *header_bytes % 8 != 0 || *header_bytes > bytes.size())
    return "its header has a length of " + std::to_string(*header_bytes);
  if ((incompatible & kCompressionNamed) == 0) return "";
  const auto type =
      *header_bytes > kCompressionType ? static_cast<uint32_t>(bytes[kCompressionType]) : 0;
  if (type > 1)
    return "its compression, type " + std::to_string(type) + ", is not supported" + kConvert;
  out->zstd = type == 1;
  return "";
}

std::string CheckTables(Bytes bytes, uint64_t file_bytes, Qcow2Header* out) {
  const uint64_t per_l1_entry_bits = out->cluster_bits + out->cluster_bits - 3;
  out->l1_entries = out->size_bytes >> per_l1_entry_bits;
  if ((out->l1_entries << per_l1_entry_bits) != out->size_bytes) ++out->l1_entries;
  if (out->l1_entries > kL1BytesMax / qcow2::kEntryBytes)
    return std::string("its L1 table is larger than 8 MiB") + kLargerClusters;
  if (out->l1_entries > LoadBe32(&bytes[kL1Entries]))
    return std::string("its L1 table is too small for its disk") + kRepair;
  const auto within = [&](uint64_t offset, uint64_t length) {
    return offset % out->cluster_bytes() == 0 && offset <= file_bytes &&
           length <= file_bytes - offset;
  };
  out->l1_offset = LoadBe64(&bytes[kL1Offset]);
  if (!within(out->l1_offset, out->l1_entries * qcow2::kEntryBytes))
    return std::string("its L1 table is not within the file") + kRepair;
  out->refcount_table_offset = LoadBe64(&bytes[kRefcountTableOffset]);
  out->refcount_table_clusters = LoadBe32(&bytes[kRefcountTableClusters]);
  const uint64_t table_bytes = out->refcount_table_clusters << out->cluster_bits;
  if (table_bytes > kRefcountTableBytesMax)
    return std::string("its refcount table is larger than 4 MiB") + kLargerClusters;
  if (table_bytes == 0 || !within(out->refcount_table_offset, table_bytes))
    return std::string("its refcount table is not within the file") + kRepair;
  return "";
}

/// The extensions stand between the header and the name of the backing file.
void ParseBackingFormat(Bytes extensions, Qcow2Header* out) {
  while (extensions.size() >= kExtensionHeadBytes) {
    const uint32_t type = LoadBe32(extensions.data());
    const size_t length = LoadBe32(&extensions[4]);
    extensions = extensions.subspan(kExtensionHeadBytes);
    if (type == kExtensionEnd || length > extensions.size()) return;
    if (type == kExtensionBackingFormat && length <= kNameBytesMax)
      out->backing_format.assign(reinterpret_cast<const char*>(extensions.data()), length);
    extensions = extensions.subspan(std::min(extensions.size(), (length + 7) / 8 * 8));
  }
}

std::string ParseBacking(Bytes bytes, size_t header_bytes, Qcow2Header* out) {
  const uint64_t offset = LoadBe64(&bytes[kBackingOffset]);
  const size_t length = LoadBe32(&bytes[kBackingLength]);
  const size_t end = std::min<uint64_t>(bytes.size(), out->cluster_bytes());
  const bool named = offset != 0 && length != 0;
  if (named &&
      (length > kNameBytesMax || offset < header_bytes || offset > end || length > end - offset))
    return "the name of its backing file is not within its header";
  const size_t extensions_end = named ? offset : end;
  if (extensions_end > header_bytes)
    ParseBackingFormat(bytes.first(extensions_end).subspan(header_bytes), out);
  if (!named) return "";
  const auto* name = reinterpret_cast<const char*>(&bytes[offset]);
  if (std::memchr(name, 0, length) != nullptr)
    return "the name of its backing file has a zero byte";
  out->backing_file.assign(name, length);
  return "";
}

}  // namespace

bool IsQcow2(Bytes first_bytes) {
  return first_bytes.size() >= 4 && std::memcmp(first_bytes.data(), "QFI\xfb", 4) == 0;
}

std::string ParseQcow2Header(Bytes bytes, uint64_t file_bytes, bool readonly, Qcow2Header* out) {
  *out = {};
  if (!IsQcow2(bytes)) return "it has no qcow2 signature";
  if (bytes.size() < kHeaderBytesV2) return "its header is cut short";
  out->version = LoadBe32(&bytes[kVersion]);
  if (out->version != 2 && out->version != 3)
    return "its version is " + std::to_string(out->version) + ", and only 2 and 3 are supported" +
           kConvert;
  out->cluster_bits = LoadBe32(&bytes[kClusterBits]);
  if (out->cluster_bits < 9 || out->cluster_bits > 21)
    return "its clusters have 1 << " + std::to_string(out->cluster_bits) +
           " bytes, not 512 to 2 MiB";
  if (LoadBe32(&bytes[kEncryption]) != 0)
    return std::string("it is encrypted, which is not supported") + kConvert;
  out->size_bytes = LoadBe64(&bytes[kSize]) >> qcow2::kSectorBits << qcow2::kSectorBits;
  out->refcount_order = 4;
  size_t header_bytes = kHeaderBytesV2;
  if (out->version == 3)
    if (std::string why = ParseV3(bytes, readonly, &header_bytes, out); !why.empty()) return why;
  if (std::string why = CheckTables(bytes, file_bytes, out); !why.empty()) return why;
  return ParseBacking(bytes, header_bytes, out);
}

}  // namespace vmm
