#pragma once
#include <fuzzer/FuzzedDataProvider.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "../../native/base/fd.h"
#include "../../native/disk/image.h"

#define HOLDS(condition) \
  if (!(condition)) abort()

/// What the fuzz targets of VHD and VHDX share: an image of which the input says what its tables
/// are, and a guest that goes on regardless.

constexpr uint64_t kFuzzFileBytes = uint64_t{1} << 40;  // sparse: nothing that is refused for size
constexpr size_t kFuzzTransferBytes = 64 << 10;

/// The file of an image, in memory, gone at the end.
class FuzzFile {
 public:
  explicit FuzzFile(uint64_t size_bytes) : fd_(memfd_create("image", MFD_CLOEXEC)) {
    HOLDS(fd_.ok() && ftruncate(fd_.get(), static_cast<off_t>(size_bytes)) == 0);
  }

  int fd() const { return fd_.get(); }
  void Write(uint64_t offset, const std::vector<std::byte>& bytes) {
    HOLDS(pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)) ==
          static_cast<ssize_t>(bytes.size()));
  }
  uint64_t Size() const { return static_cast<uint64_t>(lseek(fd_.get(), 0, SEEK_END)); }

 private:
  vmm::Fd fd_;
};

/// Mostly one of `usual`.
inline uint64_t Draw(FuzzedDataProvider* input, std::initializer_list<uint64_t> usual) {
  if (input->ConsumeIntegralInRange<int>(0, 15) == 15) return input->ConsumeIntegral<uint64_t>();
  return usual.begin()[input->ConsumeIntegralInRange<size_t>(0, usual.size() - 1)];
}

inline uint32_t Draw32(FuzzedDataProvider* input, std::initializer_list<uint64_t> usual) {
  return static_cast<uint32_t>(Draw(input, usual));
}

/// Within the disk, in whole sectors.
inline vmm::DiskRange DrawRange(FuzzedDataProvider* input, const vmm::Image& image) {
  const uint64_t sectors = image.size_bytes() / 512;
  const uint64_t drawn = input->ConsumeBool() ? input->ConsumeIntegral<uint8_t>() * uint64_t{2048}
                                              : input->ConsumeIntegral<uint64_t>();
  const uint64_t offset = drawn % sectors * 512;
  const uint64_t length = (input->ConsumeIntegralInRange<uint64_t>(0, 255) + 1) * 512;
  return {offset, std::min(length, image.size_bytes() - offset)};
}

/// Reads, writes and whatever else, checked against what image.h promises. Nothing is written to
/// the first `head_bytes` and the last `tail_bytes` of the file.
inline void Use(FuzzedDataProvider* input, const FuzzFile& file, vmm::Image* image, bool readonly,
                uint64_t head_bytes, uint64_t tail_bytes) {
  HOLDS(image->size_bytes() > 0 && image->size_bytes() % 512 == 0);
  static const std::array<std::byte, kFuzzTransferBytes> data{};
  for (int steps = 0; steps < 16 && input->remaining_bytes() > 0; ++steps) {
    const vmm::DiskRange range = DrawRange(input, *image);
    vmm::Extent extent;
    vmm::WritePlan plan;
    uint64_t done = 0, by_hand = 0;
    switch (input->ConsumeIntegralInRange<int>(0, 4)) {
      case 0:
        if (image->Read(range, &extent) < 0) break;
        HOLDS(extent.length > 0 && extent.length <= range.length);
        HOLDS(extent.kind != vmm::Extent::Kind::kFile ||
              extent.offset + extent.length <= file.Size());
        break;
      case 1:
        if (image->BeginWrite(range, &plan) < 0) break;
        HOLDS(!readonly && plan.length > 0 && plan.length <= range.length);
        HOLDS(plan.offset >= head_bytes && plan.offset + plan.length <= file.Size() - tail_bytes);
        HOLDS(pwrite(file.fd(), data.data(), std::min(plan.length, data.size()),
                     static_cast<off_t>(plan.offset)) > 0);
        HOLDS(image->EndWrite(plan.ticket, true) == 0);
        break;
      case 2:
        if (image->Zero(range, input->ConsumeBool(), &done, &by_hand) < 0) break;
        HOLDS(!readonly && done + by_hand > 0 && done + by_hand <= range.length);
        break;
      case 3:
        HOLDS(image->Discard(range) <= 0);
        break;
      default:
        HOLDS(image->Flush() <= 0);
    }
  }
}
