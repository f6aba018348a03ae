/// Fuzz target: qcow2 images. Whatever the header and the tables say, requests end, what they are
/// told to read or write lies in the file, and nothing is written over the tables.

#include <fuzzer/FuzzedDataProvider.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../native/base/fd.h"
#include "../../native/disk/qcow2.h"
#include "../../native/disk/qcow2_format.h"

#define HOLDS(condition) \
  if (!(condition)) abort()

namespace {

using vmm::DiskRange;
using vmm::Extent;
using vmm::Image;
using vmm::qcow2::StoreBe32;
using vmm::qcow2::StoreBe64;

constexpr uint64_t kFileBytesMax = 256 << 20;  // no run of so few requests comes near
constexpr uint64_t kCopied = uint64_t{1} << 63;
constexpr uint64_t kClusters = 12;
// Where it has what, in clusters.
constexpr uint64_t kTable = 1, kBlock = 2, kL1 = 3, kL2 = 4, kData = 6;

/// An image that is right: two L2 tables, some data, 16 bits a refcount.
std::vector<std::byte> MakeImage(FuzzedDataProvider* input, uint32_t cluster_bits) {
  const uint64_t cluster = uint64_t{1} << cluster_bits;
  std::vector<std::byte> bytes(kClusters * cluster);
  std::memcpy(bytes.data(), "QFI\xfb", 4);
  StoreBe32(&bytes[4], input->ConsumeIntegralInRange<uint32_t>(2, 3));
  StoreBe32(&bytes[20], cluster_bits);
  StoreBe64(&bytes[24], cluster * cluster / 8 * 3);
  StoreBe32(&bytes[36], 8);
  StoreBe64(&bytes[40], kL1 * cluster);
  StoreBe64(&bytes[48], kTable * cluster);
  StoreBe32(&bytes[56], 1);
  StoreBe32(&bytes[96], 4);
  StoreBe32(&bytes[100], 104);
  StoreBe64(&bytes[kTable * cluster], kBlock * cluster);
  for (uint64_t i = 0; i < kClusters; ++i) bytes[kBlock * cluster + 2 * i + 1] = std::byte{1};
  for (uint64_t i = 0; i < 2; ++i)
    StoreBe64(&bytes[kL1 * cluster + 8 * i], (kL2 + i) * cluster | kCopied);
  for (uint64_t i = 0; i < kClusters - kData; ++i)
    StoreBe64(&bytes[kL2 * cluster + 8 * i], (kData + i) * cluster | kCopied);
  return bytes;
}

/// A field or an entry of a table, which may be made wrong.
size_t DrawPlace(FuzzedDataProvider* input, uint64_t cluster) {
  constexpr size_t kFields[] = {8, 16, 20, 24, 32, 36, 40, 48, 56, 60, 72, 80, 88, 96, 100, 104};
  if (input->ConsumeBool()) return input->PickValueInArray(kFields);
  const uint64_t table = input->PickValueInArray({kTable, kBlock, kL1, kL2, kL2 + 1, kData});
  return table * cluster + 8 * input->ConsumeIntegralInRange<uint64_t>(0, 15);
}

uint64_t DrawValue(FuzzedDataProvider* input, uint64_t cluster) {
  if (input->ConsumeBool()) return input->ConsumeIntegral<uint64_t>();
  const uint64_t flags = input->PickValueInArray(
      {uint64_t{0}, uint64_t{1}, kCopied, kCopied | 1, uint64_t{1} << 62, uint64_t{3} << 62});
  return flags | input->ConsumeIntegralInRange<uint64_t>(0, kClusters + 4) * cluster;
}

DiskRange DrawRange(FuzzedDataProvider* input, uint64_t size_bytes) {
  const uint64_t sectors = size_bytes / 512;
  const bool near = input->ConsumeBool();
  const uint64_t first = input->ConsumeIntegralInRange<uint64_t>(
      0, near ? std::min<uint64_t>(sectors, 64) - 1 : sectors - 1);
  const uint64_t count =
      input->ConsumeIntegralInRange<uint64_t>(1, std::min<uint64_t>(sectors - first, 256));
  return {first * 512, count * 512};
}

class Fuzzed {
 public:
  Fuzzed(FuzzedDataProvider* input, std::unique_ptr<Image> image, int fd, uint64_t cluster)
      : input_(*input), image_(std::move(image)), fd_(fd), cluster_(cluster) {}
  ~Fuzzed() {
    for (const uint64_t ticket : tickets_) image_->EndWrite(ticket, false);
  }

  void DoSomething() {
    const DiskRange range = DrawRange(&input_, image_->size_bytes());
    uint64_t done = 0;
    uint64_t by_hand = 0;
    switch (input_.ConsumeIntegralInRange<int>(0, 6)) {
      case 0:
        return Read(range);
      case 1:
      case 2:
        return BeginWrite(range);
      case 3:
        return EndWrite();
      case 4:
        return static_cast<void>(image_->Discard(range));
      case 5:
        if (image_->Zero(range, input_.ConsumeBool(), &done, &by_hand) == 0)
          HOLDS((done > 0) != (by_hand > 0) && done + by_hand <= range.length);
        return;
      default:
        image_->Flush();
    }
  }

 private:
  uint64_t file_bytes() const { return static_cast<uint64_t>(lseek(fd_, 0, SEEK_END)); }

  void Read(DiskRange range) {
    Extent extent;
    if (image_->Read(range, &extent) < 0) return;
    HOLDS(extent.length > 0 && extent.length <= range.length);
    if (extent.kind == Extent::Kind::kFile)
      HOLDS(extent.file == 0 && extent.offset + extent.length <= file_bytes());
    if (extent.kind == Extent::Kind::kBytes)  // the sanitizer knows where they end
      HOLDS(extent.bytes[static_cast<ptrdiff_t>(extent.offset + extent.length - 1)] ==
            extent.bytes[static_cast<ptrdiff_t>(extent.offset + extent.length - 1)]);
  }
  void BeginWrite(DiskRange range) {
    vmm::WritePlan plan;
    if (tickets_.size() > 16 || image_->BeginWrite(range, &plan) < 0) return;
    tickets_.push_back(plan.ticket);
    const uint64_t length = plan.before.size() + plan.length + plan.after.size();
    HOLDS(plan.length > 0 && plan.length <= range.length);
    HOLDS(plan.before.size() < cluster_ && plan.after.size() < cluster_);
    HOLDS(plan.offset >= cluster_ && plan.offset + length <= file_bytes());
  }
  void EndWrite() {
    if (tickets_.empty()) return;
    image_->EndWrite(tickets_.back(), input_.ConsumeBool());
    tickets_.pop_back();
  }

  FuzzedDataProvider& input_;
  const std::unique_ptr<Image> image_;
  const int fd_;
  const uint64_t cluster_;
  std::vector<uint64_t> tickets_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  static const vmm::Fd fd(memfd_create("qcow2", MFD_CLOEXEC));
  uint32_t bits = input.ConsumeIntegralInRange<uint32_t>(9, 12);
  std::vector<std::byte> bytes = MakeImage(&input, bits);
  for (int wrong = input.ConsumeIntegralInRange<int>(0, 6); wrong > 0; --wrong) {
    const size_t place = DrawPlace(&input, uint64_t{1} << bits);
    const uint64_t value = DrawValue(&input, uint64_t{1} << bits);
    if (input.ConsumeBool())
      StoreBe64(&bytes[place], value);
    else
      StoreBe32(&bytes[place], static_cast<uint32_t>(value));
  }
  HOLDS(ftruncate(fd.get(), 0) == 0 &&
        pwrite(fd.get(), bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  const bool readonly = input.ConsumeIntegralInRange<int>(0, 7) == 7;
  for (int session = 0; session < 2; ++session) {
    std::unique_ptr<Image> image;
    std::string why;
    const int rc = OpenQcow2(std::make_unique<vmm::ImageFile>(vmm::File{fd.get(), false, 1}), {},
                             readonly, &image, &why);
    HOLDS((rc < 0) == !why.empty());
    if (rc < 0 || image->size_bytes() == 0) return 0;
    const uint64_t cluster = uint64_t{1} << vmm::qcow2::LoadBe32(&bytes[20]);
    Fuzzed fuzzed(&input, std::move(image), fd.get(), cluster);
    for (int i = 0; i < 24 && input.remaining_bytes() > 0; ++i) fuzzed.DoSomething();
  }
  HOLDS(lseek(fd.get(), 0, SEEK_END) < static_cast<off_t>(kFileBytesMax));
  return 0;
}
