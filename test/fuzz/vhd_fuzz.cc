/// Fuzz target: a VHD. Whatever its footers, header, table and bitmaps say, it opens or is refused,
/// nothing is read or written outside the file or over its footer, and it ends.

#include "../../native/disk/vhd.h"
#include "../../native/disk/vhd_bytes.h"
#include "vhd_image.h"

namespace {

using Data = std::vector<std::byte>;

/// Overwrites some numbers, and makes the checksum right more often than not.
void Finish(FuzzedDataProvider* input, Data* bytes, size_t checksum_at) {
  for (int changes = input->ConsumeIntegralInRange<int>(0, 3); changes > 0; --changes) {
    const size_t at = input->ConsumeIntegralInRange<size_t>(0, bytes->size() / 4 - 1) * 4;
    vmm::StoreBig(*bytes, at, input->ConsumeIntegral<uint32_t>());
  }
  if (input->ConsumeIntegralInRange<int>(0, 15) == 15) return;
  vmm::StoreBig(*bytes, checksum_at, uint32_t{0});
  uint32_t sum = 0;
  for (const std::byte byte : *bytes) sum += std::to_integer<uint32_t>(byte);
  vmm::StoreBig(*bytes, checksum_at, ~sum);
}

void Text(Data* bytes, const char* what) { std::memcpy(bytes->data(), what, 8); }

Data DrawFooter(FuzzedDataProvider* input, uint64_t size_bytes) {
  Data footer(512);
  Text(&footer, "conectix");
  vmm::StoreBig(footer, 16, Draw(input, {512, 512, 512, 0, 1024}));
  vmm::StoreBig(footer, 48, size_bytes);
  vmm::StoreBig(footer, 60, input->PickValueInArray<uint32_t>({3, 3, 3, 3, 2, 4, 0}));
  Finish(input, &footer, 64);
  return footer;
}

Data DrawHeader(FuzzedDataProvider* input) {
  Data header(1024);
  Text(&header, "cxsparse");
  vmm::StoreBig(header, 16, Draw(input, {1536, 1536, 2048, 512, 0}));
  vmm::StoreBig(header, 28, Draw32(input, {64, 4096, 1 << 22, 1}));
  vmm::StoreBig(header, 32, Draw32(input, {2 << 20, 2 << 20, 4096, 64 << 20}));
  Finish(input, &header, 36);
  return header;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  const bool readonly = input.ConsumeIntegralInRange<int>(0, 7) == 7;
  const uint64_t disk_bytes = Draw(&input, {16 << 20, 64 << 20, 512, uint64_t{2} << 40});
  FuzzFile file(Draw(&input, {8 << 20, 8 << 20, 4096, 512, 1 << 30}) % kFuzzFileBytes);
  const Data footer = DrawFooter(&input, disk_bytes);
  file.Write(0, footer);
  file.Write(512, DrawHeader(&input));
  Data table(256, std::byte{0xff});
  for (int entries = input.ConsumeIntegralInRange<int>(0, 8); entries > 0; --entries)
    vmm::StoreBig(table, input.ConsumeIntegralInRange<size_t>(0, 63) * 4,
                  Draw32(&input, {8, 16, 4105, 8202, 3, 1}));
  file.Write(1536, table);
  for (int bitmaps = input.ConsumeIntegralInRange<int>(0, 4); bitmaps > 0; --bitmaps) {
    const auto bytes = input.ConsumeBytes<std::byte>(64);
    file.Write(input.ConsumeIntegralInRange<uint64_t>(8, 16) * 512, bytes);
  }
  if (input.ConsumeBool()) file.Write((file.Size() + 511) / 512 * 512, footer);

  std::unique_ptr<vmm::Image> image;
  std::string why;
  const int rc = vmm::OpenVhd({.fd = file.fd()}, readonly, &image, &why);
  HOLDS(rc <= 0 && (rc == 0) == (image != nullptr) && (rc == 0 || !why.empty()));
  if (rc == 0) Use(&input, file, image.get(), readonly, 0, 512);
  return 0;
}
