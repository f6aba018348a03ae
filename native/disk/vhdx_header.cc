#include "vhdx_header.h"

#include <errno.h>
#include <sys/random.h>

namespace vmm {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // Castagnoli's, bits reversed
constexpr size_t kChecksum = 4;
constexpr uint64_t kSlots[] = {64 << 10, 128 << 10};

// Of a header.
constexpr size_t kSequence = 8;
constexpr size_t kFileWriteGuid = 16;
constexpr size_t kDataWriteGuid = 32;
constexpr size_t kLogGuid = 48;
constexpr size_t kLogVersion = 64;
constexpr size_t kVersion = 66;
constexpr size_t kLogLength = 68;
constexpr size_t kLogOffset = 72;

constexpr std::array<uint32_t, 256> MakeTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ ((value & 1) != 0 ? kPolynomial : 0);
    table[i] = value;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kTable = MakeTable();

uint32_t ChecksumOf(Bytes bytes) {
  Crc32c crc;
  crc.Add(bytes.first(kChecksum));
  crc.Add(std::array<std::byte, sizeof(uint32_t)>{});
  crc.Add(bytes.subspan(kChecksum + sizeof(uint32_t)));
  return crc.value();
}

/// A version 4 UUID.
int StoreRandomGuid(std::span<std::byte> into) {
  VhdxGuid guid;
  if (getrandom(guid.data(), guid.size(), 0) != static_cast<ssize_t>(guid.size())) return -EIO;
  guid[7] = (guid[7] & std::byte{0x0f}) | std::byte{0x40};
  guid[8] = (guid[8] & std::byte{0x3f}) | std::byte{0x80};
  std::memcpy(into.data(), guid.data(), guid.size());
  return 0;
}

}  // namespace

void Crc32c::Add(Bytes bytes) {
  for (const std::byte byte : bytes)
    state_ = state_ >> 8 ^ kTable[(state_ ^ std::to_integer<uint32_t>(byte)) & 0xff];
}

bool VhdxChecksumHolds(Bytes bytes) {
  return LoadLittle<uint32_t>(bytes, kChecksum) == ChecksumOf(bytes);
}

bool IsVhdxPlace(const FileRange& range) {
  return range.begin % kVhdxAlign == 0 && range.end % kVhdxAlign == 0 &&
         range.begin >= kVhdxAlign && range.begin < range.end && range.end <= kVhdxFileBytesMax;
}

int VhdxHeaders::Load(const ImageFile& file, std::string* why) {
  bool found = false;
  for (size_t slot = 0; slot < std::size(kSlots); ++slot) {
    std::array<std::byte, kHeaderBytes> bytes;
    if (const int rc = file.Read(kSlots[slot], bytes); rc < 0)
      return Refuse(rc, why, "Its headers cannot be read; restore the image from a copy");
    if (!HasText(bytes, 0, "head") || !VhdxChecksumHolds(bytes)) continue;
    const auto sequence = LoadLittle<uint64_t>(bytes, kSequence);
    const uint64_t other = found ? LoadLittle<uint64_t>(header_, kSequence) : 0;
    if (found && sequence == other && bytes != header_)
      return Refuse(-EINVAL, why,
                    "Both of its headers claim to be the last; restore the image from a copy");
    if (found && sequence < other) continue;
    header_ = bytes;
    slot_ = slot;
    found = true;
  }
  if (!found)
    return Refuse(-EINVAL, why, "Both of its headers are damaged; restore the image from a copy");
  if (const auto version = LoadLittle<uint16_t>(header_, kVersion); version != 1)
    return Refuse(-EOPNOTSUPP, why,
                  "It is VHDX version " + std::to_string(version) +
                      ", and only version 1 is known; convert it where it was made");
  if (!has_log()) return 0;
  if (LoadLittle<uint16_t>(header_, kLogVersion) != 0 || !IsVhdxPlace(log()))
    return Refuse(-EINVAL, why, "Its log cannot be what its header says; restore it from a copy");
  return 0;
}

int VhdxHeaders::Renew(const ImageFile& file) {
  const std::span<std::byte> header(header_);
  int rc = StoreRandomGuid(header.subspan(kFileWriteGuid));
  if (rc == 0) rc = StoreRandomGuid(header.subspan(kDataWriteGuid));
  std::memset(header.subspan(kLogGuid).data(), 0, sizeof(VhdxGuid));
  for (size_t i = 0; rc == 0 && i < std::size(kSlots); ++i) {
    const auto sequence = LoadLittle<uint64_t>(header_, kSequence);
    if (sequence == UINT64_MAX) return -EOVERFLOW;
    StoreLittle(header, kSequence, sequence + 1);
    StoreLittle(header, kChecksum, ChecksumOf(header_));
    slot_ = 1 - slot_;
    rc = file.Write(kSlots[slot_], header_);
    if (rc == 0) rc = file.Sync();
  }
  return rc;
}

VhdxGuid VhdxHeaders::log_guid() const { return LoadGuid(header_, kLogGuid); }

/// An offset at the end of all numbers gives what is no place.
FileRange VhdxHeaders::log() const {
  const auto begin = LoadLittle<uint64_t>(header_, kLogOffset);
  return {begin, begin + LoadLittle<uint32_t>(header_, kLogLength)};
}

}  // namespace vmm
