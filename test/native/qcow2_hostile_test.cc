/// Headers and tables made by hand: what is wrong in them is told or fails, and does no harm.

#include <sys/mman.h>

#include "qcow2_support.h"

namespace {

using vmm::Extent;
using vmm::Image;
using vmm::Qcow2Header;

constexpr uint64_t kCluster = 4096;
constexpr uint64_t kDiskBytes = 4 << 20;
// Where it has what, in clusters.
constexpr uint64_t kTable = 1, kBlock = 2, kL1 = 3, kL2 = 4, kData = 5, kClusters = 6;
constexpr uint64_t kCopied = uint64_t{1} << 63;
constexpr uint64_t kCompressed = uint64_t{1} << 62;

/// An image of version 3 whose first cluster is data, and a change of it.
class Forged {
 public:
  Forged() : bytes_(kClusters * kCluster) {
    std::memcpy(bytes_.data(), "QFI\xfb", 4);
    Put32(4, 3).Put32(20, 12).Put64(24, kDiskBytes).Put32(36, 2).Put64(40, kL1 * kCluster);
    Put64(48, kTable * kCluster).Put32(56, 1).Put32(96, 4).Put32(100, 104);
    Put64(kTable * kCluster, kBlock * kCluster);
    for (uint64_t i = 0; i < kClusters; ++i) Put(kBlock * kCluster + 2 * i, 1, 2);
    Put64(kL1 * kCluster, kL2 * kCluster | kCopied)
        .Put64(kL2 * kCluster, kData * kCluster | kCopied);
    std::fill_n(&bytes_[kData * kCluster], kCluster, std::byte{7});
  }
  Forged& Put32(uint64_t at, uint32_t value) { return Put(at, value, 4); }
  Forged& Put64(uint64_t at, uint64_t value) { return Put(at, value, 8); }
  Forged& PutText(uint64_t at, const std::string& text) {
    std::memcpy(&bytes_[at], text.data(), text.size());
    return *this;
  }
  /// What the file claims to be long; behind the bytes it is sparse.
  Forged& Sparse(uint64_t size_bytes) { return file_bytes_ = size_bytes, *this; }
  Forged& Cut(size_t size_bytes) { return bytes_.resize(size_bytes), *this; }

  std::string Parse(bool readonly, Qcow2Header* header) const {
    const std::span<const std::byte> first = bytes_;
    return ParseQcow2Header(first, std::max<uint64_t>(file_bytes_, bytes_.size()), readonly,
                            header);
  }
  std::string Why(bool readonly = false) const {
    Qcow2Header header;
    return Parse(readonly, &header);
  }
  /// Opens it; its file is of memory.
  int Open(bool readonly, std::unique_ptr<Image>* image) {
    fd_ = vmm::Fd(memfd_create("forged", MFD_CLOEXEC));
    const auto size = static_cast<ssize_t>(bytes_.size());
    CHECK(fd_.ok() && write(fd_.get(), bytes_.data(), bytes_.size()) == size);
    const auto file_bytes = static_cast<off_t>(std::max<uint64_t>(file_bytes_, bytes_.size()));
    CHECK(ftruncate(fd_.get(), file_bytes) == 0);
    std::string why;
    const int rc = OpenQcow2(std::make_unique<vmm::ImageFile>(vmm::File{fd_.get(), false, 1}), {},
                             readonly, image, &why);
    CHECK((rc < 0) == !why.empty());
    return rc;
  }
  /// What is in the file now.
  std::byte At(uint64_t offset) const {
    std::byte byte;
    CHECK(pread(fd_.get(), &byte, 1, static_cast<off_t>(offset)) == 1);
    return byte;
  }

 private:
  Forged& Put(uint64_t at, uint64_t value, size_t length) {
    for (; length > 0; value >>= 8) bytes_[at + --length] = static_cast<std::byte>(value & 0xff);
    return *this;
  }

  std::vector<std::byte> bytes_;
  uint64_t file_bytes_ = 0;
  vmm::Fd fd_;
};

bool Says(const std::string& why, const std::string& what) {
  if (why.find(what) != std::string::npos) return true;
  std::fprintf(stderr, "'%s' does not say '%s'\n", why.c_str(), what.c_str());
  return false;
}

void Refused() {
  CHECK(Forged().Why().empty());
  CHECK(Says(Forged().Put32(0, 0).Why(), "no qcow2 signature"));
  CHECK(Says(Forged().Cut(71).Why(), "cut short"));
  CHECK(Says(Forged().Cut(103).Why(), "cut short"));
  CHECK(Says(Forged().Put32(4, 1).Why(), "version is 1"));
  CHECK(Says(Forged().Put32(20, 8).Why(), "clusters have 1 << 8"));
  CHECK(Says(Forged().Put32(20, 22).Why(), "clusters have 1 << 22"));
  CHECK(Says(Forged().Put32(32, 2).Why(), "encrypted, which is not supported; 'qemu-img convert"));
  CHECK(Says(Forged().Put64(72, 4).Why(), "file of its own, which is not supported; 'qemu-img"));
  CHECK(Says(Forged().Put64(72, 16).Why(), "extended L2 entries"));
  CHECK(Says(Forged().Put64(72, 64).Why(), "unknown incompatible features, bits 64"));
  CHECK(Says(Forged().Put32(96, 7).Why(), "more than 64 bits"));
  CHECK(Says(Forged().Put32(100, 96).Why(), "length of 96"));
  CHECK(Says(Forged().Put32(100, 1 << 20).Why(), "length of 1048576"));
  CHECK(Says(Forged().Put64(72, 8).Put32(100, 112).Put32(104, 0x0200'0000).Why(), "type 2"));
  CHECK(Says(Forged().Put32(36, 1).Why(), "too small for its disk; 'qemu-img check -r all'"));
  CHECK(Says(Forged().Put64(40, 100 * kCluster).Why(), "L1 table is not within the file"));
  CHECK(Says(Forged().Put64(40, kL1 * kCluster + 8).Why(), "L1 table is not within the file"));
  CHECK(Says(Forged().Put64(24, uint64_t{3} << 40).Why(), "L1 table is larger than 8 MiB"));
  CHECK(Says(Forged().Put64(24, ~uint64_t{0}).Why(), "L1 table is larger than 8 MiB"));
  CHECK(Says(Forged().Put64(48, ~uint64_t{0xfff}).Why(), "refcount table is not within"));
  CHECK(Says(Forged().Put32(56, 0).Why(), "refcount table is not within"));
  CHECK(Says(Forged().Put32(56, ~0U).Why(), "refcount table is larger than 4 MiB"));
}

void RepairedFirst() {
  for (const uint64_t bit : {1, 2}) {
    CHECK(Says(Forged().Put64(72, bit).Why(), "; 'qemu-img check -r all' repairs it"));
    CHECK(Forged().Put64(72, bit).Why(true).empty());
  }
}

void Names() {
  Qcow2Header header;
  Forged image;
  image.Put32(104, 0xe279'2aca).Put32(108, 5).PutText(112, "qcow2").PutText(128, "base.img");
  CHECK(image.Put64(8, 128).Put32(16, 8).Parse(false, &header).empty());
  CHECK(header.backing_file == "base.img" && header.backing_format == "qcow2");
  const auto named = [](uint64_t at, uint32_t length) {
    return Forged().PutText(128, "base").Put64(8, at).Put32(16, length).Why();
  };
  for (const uint64_t at : {uint64_t{8}, kCluster - 3, kCluster * 2, ~uint64_t{0}})
    CHECK(Says(named(at, 4), "name of its backing file is not within"));
  CHECK(Says(named(128, 1024), "name of its backing file is not within"));
  CHECK(Says(named(128, 5), "has a zero byte"));
  std::unique_ptr<Image> opened;
  CHECK(image.Open(true, &opened) == -EINVAL);  // never as if it had none
}

/// Two tables in one place: what changes the one would change the other.
void Overlapping() {
  const auto open = [](uint64_t at, uint64_t value, bool readonly) {
    std::unique_ptr<Image> image;
    return Forged().Put64(at, value).Open(readonly, &image);
  };
  for (const uint64_t cluster : {uint64_t{0}, kTable, kBlock, kL1}) {
    CHECK(cluster == 0 || open(kL1 * kCluster, cluster * kCluster | kCopied, false) == -EINVAL);
    CHECK(open(kL1 * kCluster, cluster * kCluster | kCopied, true) == 0);
  }
  CHECK(open(kL1 * kCluster + 8, kL2 * kCluster | kCopied, false) == -EINVAL);
  CHECK(open(kTable * kCluster, kL1 * kCluster, false) == -EINVAL);
  CHECK(open(kTable * kCluster + 8, kBlock * kCluster, false) == -EINVAL);
  CHECK(open(40, 0, false) == -EINVAL && open(48, kL1 * kCluster, false) == -EINVAL);
}

constexpr uint64_t kWrongOffsets[] = {512, 100 * kCluster, uint64_t{1} << 55};

int WriteAt(Image* image, uint64_t offset, vmm::WritePlan* plan) {
  return image->BeginWrite({offset, 512}, plan);
}

void BadEntries() {
  const auto check = [](uint64_t at, uint64_t value, uint64_t good_offset) {
    for (const bool readonly : {false, true}) {
      std::unique_ptr<Image> image;
      Forged forged;
      CHECK(forged.Put64(at, value).Open(readonly, &image) == 0);
      Extent extent;
      vmm::WritePlan plan;
      CHECK(image->Read({512, 512}, &extent) == -EIO);
      CHECK(image->Read({good_offset, 512}, &extent) == 0);
      if (readonly) continue;
      CHECK(WriteAt(image.get(), 512, &plan) == -EIO);
      CHECK(image->Discard({0, kCluster}) == -EIO);
      CHECK(WriteAt(image.get(), good_offset, &plan) == 0);
      CHECK(image->EndWrite(plan.ticket, true) == 0 && image->Flush() == 0);
    }
  };
  for (const uint64_t offset : kWrongOffsets) {
    check(kL1 * kCluster, offset | kCopied, 2 << 20);
    check(kL2 * kCluster, offset | kCopied, kCluster);
    check(kL2 * kCluster, offset | kCopied | 1, kCluster);
  }
  // Compressed data outside the file.
  check(kL2 * kCluster, kCompressed | 100 * kCluster, kCluster);
}

/// The file grows over what an entry names: it names no table even then.
void OutsideForGood() {
  std::unique_ptr<Image> image;
  vmm::WritePlan plan;
  Forged l1;
  CHECK(l1.Put64(kL1 * kCluster + 8, (kClusters + 4) * kCluster).Open(false, &image) == 0);
  CHECK(image->BeginWrite({kCluster, 64 * kCluster}, &plan) == 0);
  CHECK(image->EndWrite(plan.ticket, true) == 0);
  Extent extent;
  CHECK(image->Read({2 << 20, 512}, &extent) == -EIO);
  CHECK(WriteAt(image.get(), 2 << 20, &plan) == -EIO);

  // Refcounts of 64 bits: what the second block would count is never known to be free.
  constexpr uint64_t kCounted = kCluster / 8;
  Forged table;
  table.Put32(96, 6).Put64(kTable * kCluster + 8, (kClusters + 4) * kCluster);
  for (uint64_t i = 0; i < kClusters; ++i) table.Put64(kBlock * kCluster + 8 * i, 1);
  CHECK(table.Open(false, &image) == 0);
  for (uint64_t offset = kCluster; offset < kDiskBytes; offset += kCluster) {
    CHECK(WriteAt(image.get(), offset, &plan) == 0);
    CHECK(plan.offset / kCluster / kCounted != 1);
    CHECK(image->EndWrite(plan.ticket, true) == 0);
  }
}

/// Data, and a stream that ends after one byte.
void BadCompressed() {
  for (const std::string& data : {std::string("\7\7\7"), std::string("\1\1\0\xfe\xff\7", 6)}) {
    std::unique_ptr<Image> image;
    Forged forged;
    forged.PutText(kData * kCluster, data);
    forged.Put64(kL2 * kCluster, kCompressed | uint64_t{3} << 58 | kData * kCluster);
    CHECK(forged.Open(false, &image) == 0);
    Extent extent;
    vmm::WritePlan plan;
    CHECK(image->Read({0, 512}, &extent) == -EIO && WriteAt(image.get(), 0, &plan) == -EIO);
    CHECK(image->BeginWrite({0, kCluster}, &plan) == 0);
  }
}

/// Entries that name tables of the image, with every flag that would allow it.
void TablesAreSafe() {
  for (const uint64_t cluster : {kTable, kBlock, kL1, kL2}) {
    std::unique_ptr<Image> image;
    Forged forged;
    CHECK(forged.Put64(kL2 * kCluster, cluster * kCluster | kCopied).Open(false, &image) == 0);
    vmm::WritePlan plan;
    CHECK(WriteAt(image.get(), 0, &plan) == 0 && plan.offset >= kClusters * kCluster);
    CHECK(image->EndWrite(plan.ticket, false) == 0);
    CHECK(image->Discard({0, kCluster}) == 0 && image->Flush() == 0);
    CHECK(image->Flush() == 0);
    CHECK(forged.At(kBlock * kCluster + 2 * cluster + 1) == std::byte{1});
  }
}

/// Refcounts that say all is free: what is in use is not overwritten, as far as tables tell.
void WrongRefcounts() {
  std::unique_ptr<Image> image;
  Forged forged;
  for (uint64_t i = 0; i < kClusters; i += 4) forged.Put64(kBlock * kCluster + 2 * i, 0);
  CHECK(forged.Open(false, &image) == 0);
  for (uint64_t offset = kCluster; offset < 64 * kCluster; offset += kCluster) {
    vmm::WritePlan plan;
    CHECK(WriteAt(image.get(), offset, &plan) == 0);
    CHECK(plan.offset / kCluster >= kData);
    CHECK(image->EndWrite(plan.ticket, true) == 0);
  }
  // A block that is not in the file, and would count 128 MiB: none of them is known to be free, and
  // the file does not grow beyond.
  Forged other;
  other.Put32(96, 0).Put64(kTable * kCluster, 100 * kCluster);
  CHECK(other.Open(false, &image) == 0);
  vmm::WritePlan plan;
  CHECK(WriteAt(image.get(), kCluster, &plan) == -EIO);
}

void Bounded() {
  const size_t before = __sanitizer_get_current_allocated_bytes();
  std::unique_ptr<Image> image;
  Forged forged;
  // The largest tables that are taken, in a file of 1 TiB, and all of it is looked at.
  forged.Put64(24, uint64_t{2} << 40).Put32(36, 1 << 20).Put64(40, uint64_t{1} << 39);
  forged.Put64(48, uint64_t{1} << 38).Put32(56, 1024).Sparse(uint64_t{1} << 40);
  CHECK(forged.Open(false, &image) == 0);
  for (uint64_t offset = 0; offset < uint64_t{2} << 40; offset += uint64_t{1} << 27) {
    vmm::WritePlan plan;
    CHECK(image->BeginWrite({offset, 512}, &plan) == 0 && image->EndWrite(plan.ticket, true) == 0);
  }
  CHECK(__sanitizer_get_current_allocated_bytes() - before < 64 << 20);
}

void Autoclear() {
  std::unique_ptr<Image> image;
  Forged forged;
  CHECK(forged.Put64(88, 5).Open(true, &image) == 0 && forged.At(95) == std::byte{5});
  CHECK(forged.Open(false, &image) == 0 && forged.At(95) == std::byte{0});
}

}  // namespace

int main() {
  Test("a header that cannot be relied on is refused in words", Refused);
  Test("a dirty or corrupt image is only read", RepairedFirst);
  Test("the backing file is told, if its name is within the header", Names);
  Test("an image with two tables in one place is not written", Overlapping);
  Test("a bad entry fails its request and no other", BadEntries);
  Test("a table outside the file stays there, however the file grows", OutsideForGood);
  Test("what is no compressed cluster fails, and can be overwritten", BadCompressed);
  Test("entries that name tables do not have them overwritten or freed", TablesAreSafe);
  Test("wrong refcounts give no table away", WrongRefcounts);
  Test("no header makes us take 64 MiB", Bounded);
  Test("features that others keep up to date are cleared before a write", Autoclear);
}
