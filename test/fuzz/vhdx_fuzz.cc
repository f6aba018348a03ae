/// Fuzz target: a VHDX. Whatever its headers, log, regions, metadata and table say, it opens or is
/// refused, nothing is read or written outside the file, and it ends.

#include "../../native/disk/vhdx.h"
#include "../../native/disk/vhdx_header.h"
#include "vhd_image.h"

namespace {

using Data = std::vector<std::byte>;
constexpr uint64_t kMiB = 1 << 20;
constexpr size_t kSectorBytes = 4096;

constexpr vmm::VhdxGuid kRegions[] = {
    vmm::GuidOf("2DC27766-F623-4200-9D64-115E9BFD4A08"),
    vmm::GuidOf("8B7CA206-4790-4B9A-B8FE-575F050F886E"),
};
constexpr vmm::VhdxGuid kItems[] = {
    vmm::GuidOf("CAA16737-FA36-4D43-B3B6-33F0AA44E76B"),
    vmm::GuidOf("2FA54224-CD1B-4876-B211-5DBED83BF4B8"),
    vmm::GuidOf("8141BF1D-A96F-4709-BA47-F233A8FAAB5F"),
    vmm::GuidOf("CDA348C7-445D-4471-9CC9-E9885251C556"),
};

void Text(Data* bytes, size_t at, const char* what) {
  std::memcpy(&(*bytes)[at], what, std::strlen(what));
}

/// The checksum in bytes 4 to 7 is right more often than not.
void Seal(FuzzedDataProvider* input, Data* bytes) {
  if (input->ConsumeIntegralInRange<int>(0, 31) == 31) return;
  vmm::Crc32c crc;
  crc.Add(*bytes);
  vmm::StoreLittle(*bytes, 4, crc.value());
}

Data DrawHeader(FuzzedDataProvider* input, bool has_log) {
  Data header(kSectorBytes);
  Text(&header, 0, "head");
  vmm::StoreLittle(header, 8, Draw(input, {1, 2, 3, UINT64_MAX}));
  header[48] = std::byte{has_log};
  vmm::StoreLittle(header, 66, uint16_t{1});
  vmm::StoreLittle(header, 68, Draw32(input, {kMiB, kMiB, 0, 2 * kMiB}));
  vmm::StoreLittle(header, 72, Draw(input, {kMiB, kMiB, kMiB, 3 * kMiB, 0}));
  Seal(input, &header);
  return header;
}

Data DrawEntry(FuzzedDataProvider* input) {
  const auto descriptors = Draw32(input, {1, 2, 3, 0, 130});
  const uint64_t sequence = Draw(input, {1, 2, 3, 4});
  const uint64_t first = (64 + std::min<uint64_t>(descriptors, 200) * 32 + 4095) / 4096;
  Data entry(first * kSectorBytes);
  Text(&entry, 0, "loge");
  vmm::StoreLittle(entry, 12, Draw32(input, {0, 0, 8192, 16384, kMiB - 8192}));
  vmm::StoreLittle(entry, 16, sequence);
  vmm::StoreLittle(entry, 24, descriptors);
  entry[32] = std::byte{1};
  vmm::StoreLittle(entry, 48, Draw(input, {0, 8 * kMiB}));
  vmm::StoreLittle(entry, 56, Draw(input, {8 * kMiB, 16 * kMiB}));
  for (size_t at = 64; at < entry.size() && (at - 64) / 32 < descriptors && at < 64 + 200 * 32;
       at += 32) {
    const bool data = input->ConsumeBool();
    Text(&entry, at, data ? "desc" : "zero");
    vmm::StoreLittle(entry, at + 8, Draw(input, {4096, 0, 65536}));
    vmm::StoreLittle(entry, at + 16, Draw(input, {2 * kMiB, 3 * kMiB, 192 << 10, kMiB, 4 * kMiB}));
    vmm::StoreLittle(entry, at + 24, sequence);
    if (!data) continue;
    const size_t sector = entry.size();
    entry.resize(sector + kSectorBytes);
    Text(&entry, sector, "data");
    vmm::StoreLittle(entry, sector + 4, static_cast<uint32_t>(sequence >> 32));
    vmm::StoreLittle(entry, entry.size() - 4, static_cast<uint32_t>(sequence));
    if (at + 32 > first * kSectorBytes) break;
  }
  vmm::StoreLittle(entry, 8, Draw32(input, {entry.size(), entry.size(), kMiB}));
  Seal(input, &entry);
  return entry;
}

void WriteLog(FuzzedDataProvider* input, FuzzFile* file) {
  uint64_t at = Draw(input, {0, 0, kMiB - 8192, 8192}) % kMiB / kSectorBytes * kSectorBytes;
  for (int entries = input->ConsumeIntegralInRange<int>(0, 3); entries > 0; --entries) {
    const Data entry = DrawEntry(input);
    for (size_t done = 0; done < entry.size(); done += kSectorBytes, at += kSectorBytes)
      file->Write(kMiB + at % kMiB, {entry.begin() + static_cast<ptrdiff_t>(done),
                                     entry.begin() + static_cast<ptrdiff_t>(done + kSectorBytes)});
  }
}

Data DrawRegions(FuzzedDataProvider* input) {
  Data table(64 << 10);
  Text(&table, 0, "regi");
  vmm::StoreLittle(table, 8, Draw32(input, {2, 2, 2, 2, 3, 2047}));
  for (size_t region = 0; region < std::size(kRegions); ++region) {
    const size_t at = 16 + region * 32;
    std::copy(kRegions[region].begin(), kRegions[region].end(),
              table.begin() + static_cast<ptrdiff_t>(at));
    const uint64_t usual = (2 + region) * kMiB;
    vmm::StoreLittle(table, at + 16, Draw(input, {usual, usual, usual, usual, 5 * kMiB}));
    vmm::StoreLittle(table, at + 24, Draw32(input, {kMiB, kMiB, kMiB, kMiB, 2 * kMiB, 0}));
  }
  if (input->ConsumeIntegralInRange<int>(0, 7) == 7) table[16 + 64 + 28] = std::byte{1};
  Seal(input, &table);
  return table;
}

Data DrawMetadata(FuzzedDataProvider* input) {
  Data bytes((64 << 10) + 64);
  Text(&bytes, 0, "metadata");
  vmm::StoreLittle(bytes, 10, static_cast<uint16_t>(Draw(input, {4, 4, 4, 4, 5, 3})));
  for (size_t item = 0; item < std::size(kItems); ++item) {
    const size_t at = 32 + item * 32;
    std::copy(kItems[item].begin(), kItems[item].end(), bytes.begin() + static_cast<ptrdiff_t>(at));
    const uint64_t offset = (64 << 10) + item * 8;
    vmm::StoreLittle(bytes, at + 16, Draw32(input, {offset, offset, offset, offset, kMiB - 4}));
    vmm::StoreLittle(bytes, at + 20, item < 2 ? 8 : 4);
    vmm::StoreLittle(bytes, at + 24, uint32_t{4});
  }
  const size_t values = 64 << 10;
  vmm::StoreLittle(bytes, values, Draw32(input, {kMiB, 2 * kMiB, 256 * kMiB, kMiB}));
  vmm::StoreLittle(bytes, values + 4, Draw32(input, {0, 0, 0, 1, 2}));
  vmm::StoreLittle(bytes, values + 8,
                   Draw(input, {64 * kMiB, 64 * kMiB, 63 * kMiB + 512, uint64_t{64} << 40}));
  vmm::StoreLittle(bytes, values + 16, Draw32(input, {512, 512, 4096}));
  vmm::StoreLittle(bytes, values + 24, Draw32(input, {512, 4096}));
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  const bool readonly = input.ConsumeIntegralInRange<int>(0, 7) == 7;
  FuzzFile file(Draw(&input, {8 * kMiB, 8 * kMiB, 4 * kMiB, 8 * kMiB - 512}) % kFuzzFileBytes);
  file.Write(0, {std::byte{'v'}, std::byte{'h'}, std::byte{'d'}, std::byte{'x'}, std::byte{'f'},
                 std::byte{'i'}, std::byte{'l'}, std::byte{'e'}});
  const bool has_log = input.ConsumeBool();
  for (const uint64_t at : {64 << 10, 128 << 10}) file.Write(at, DrawHeader(&input, has_log));
  if (has_log) WriteLog(&input, &file);
  const Data regions = DrawRegions(&input);
  for (const uint64_t at : {192 << 10, 256 << 10}) file.Write(at, regions);
  file.Write(3 * kMiB, DrawMetadata(&input));
  Data table(512);
  for (int entries = input.ConsumeIntegralInRange<int>(0, 8); entries > 0; --entries)
    vmm::StoreLittle(table, input.ConsumeIntegralInRange<size_t>(0, 63) * 8,
                     Draw(&input, {4 * kMiB, 5 * kMiB, 2 * kMiB, 8 * kMiB}) |
                         input.PickValueInArray<uint64_t>({6, 6, 6, 2, 3, 7, 5}));
  file.Write(2 * kMiB, table);

  std::unique_ptr<vmm::Image> image;
  std::string why;
  const int rc = vmm::OpenVhdx({.fd = file.fd()}, readonly, &image, &why);
  HOLDS(rc <= 0 && (rc == 0) == (image != nullptr) && (rc == 0 || !why.empty()));
  if (rc == 0) Use(&input, file, image.get(), readonly, kMiB, 0);
  return 0;
}
