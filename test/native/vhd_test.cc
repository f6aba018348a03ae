#include "../../native/disk/vhd.h"

#include "../../native/disk/vhd_bytes.h"
#include "vhd_disk.h"

namespace {

constexpr uint64_t kSizeBytes = 8 << 20;
constexpr uint64_t kBlockBytes = 2 << 20;
constexpr uint64_t kSectorBytes = 512;

// Of what QEMU makes.
constexpr uint64_t kHeader = 512;
constexpr uint64_t kTable = 1536;
constexpr size_t kFooterChecksum = 64;
constexpr size_t kHeaderChecksum = 36;

/// Writes `value` of `size` bytes, most significant first.
void PatchBig(const std::string& path, uint64_t offset, uint64_t value, size_t size) {
  Data bytes(8);
  vmm::StoreBig<uint64_t>(bytes, 0, value);
  Patch(path, offset, std::span(bytes).last(size));
}

/// Makes the checksum of a footer or header right again.
void Seal(const std::string& path, uint64_t offset, size_t length, size_t checksum_at) {
  PatchBig(path, offset + checksum_at, 0, 4);
  uint32_t sum = 0;
  for (const std::byte byte : Contents(path, offset, length))
    sum += std::to_integer<uint32_t>(byte);
  PatchBig(path, offset + checksum_at, ~sum, 4);
}

void SealFooter(const std::string& path, uint64_t offset) {
  Seal(path, offset, kSectorBytes, kFooterChecksum);
}

/// A footer changed in front and at the end.
void PatchFooters(const std::string& path, uint64_t offset, uint64_t value, size_t size) {
  for (const uint64_t footer : {uint64_t{0}, std::filesystem::file_size(path) - kSectorBytes}) {
    PatchBig(path, footer + offset, value, size);
    SealFooter(path, footer);
  }
}

Data FirstSector(const std::string& path) { return Contents(path, 0, kSectorBytes); }
Data LastSector(const std::string& path) {
  return Contents(path, std::filesystem::file_size(path) - kSectorBytes, kSectorBytes);
}

void Detected() {
  const Directory directory;
  MakeImage(kFixedVhd, directory / "fixed", kSizeBytes);
  MakeImage(kDynamicVhd, directory / "dynamic", kSizeBytes);
  const Data none(kSectorBytes);
  const Data fixed = LastSector(directory / "fixed");
  const Data dynamic = FirstSector(directory / "dynamic");

  CHECK(vmm::IsVhd(none, fixed));
  CHECK(vmm::IsVhd(none, dynamic));
  CHECK(vmm::IsVhd(dynamic, none));
  CHECK(!vmm::IsVhd(fixed, none));
  CHECK(!vmm::IsVhd(none, none));
  CHECK(!vmm::IsVhd({}, {}));
  Data damaged = fixed;
  damaged[50] ^= std::byte{1};
  CHECK(!vmm::IsVhd(none, damaged));
}

/// The first sector of a fixed disk is the guest's.
void FixedWhateverTheGuestWrites() {
  const Directory directory;
  MakeImage(kFixedVhd, directory / "fixed", kSizeBytes);
  MakeImage(kDynamicVhd, directory / "dynamic", kSizeBytes);
  const Data planted = FirstSector(directory / "dynamic");
  Patch(directory / "fixed", 0, planted);

  Disk disk(kFixedVhd, directory / "fixed");

  Data found(kSectorBytes);
  CHECK(disk.Read(0, found) == 0 && found == planted);
}

/// What is wrong, and what is said of it.
struct Fault {
  void (*spoil)(const std::string& path);
  const char* reason;
};

template <uint64_t offset, uint64_t value, size_t size>
void Footers(const std::string& path) {
  PatchFooters(path, offset, value, size);
}

template <uint64_t offset, uint64_t value, size_t size>
void Header(const std::string& path) {
  PatchBig(path, kHeader + offset, value, size);
  Seal(path, kHeader, 1024, kHeaderChecksum);
}

void Truncate(const std::string& path, uint64_t size_bytes) {
  std::filesystem::resize_file(path, size_bytes);
}

constexpr Fault kFaults[] = {
    {Footers<60, 4, 4>, "Merge-VHD"},
    {Footers<60, 5, 4>, "type is 5"},
    {Footers<48, 0, 8>, "size of its disk is 0"},
    {Footers<48, 513, 8>, "513"},
    {Footers<48, ~uint64_t{511}, 8>, "blocks"},
    {Footers<16, 0, 8>, "header is at 0"},
    {Footers<16, 1 << 30, 8>, "header is at 1073741824"},
    {Footers<16, ~uint64_t{0}, 8>, "header is at 18446744073709551615"},
    {Footers<16, 1024, 8>, "header is damaged"},
    {[](const std::string& path) { PatchBig(path, kHeader + 100, 1, 1); }, "header is damaged"},
    {[](const std::string& path) { PatchBig(path, 100, 1, 1); }, "in front is damaged"},
    {Header<16, 0, 8>, "table of blocks is at 0"},
    {Header<16, 512, 8>, "table of blocks is at 512"},
    {Header<16, 1537, 8>, "table of blocks is at 1537"},
    {Header<16, 1 << 30, 8>, "table of blocks is at 1073741824"},
    {Header<16, ~uint64_t{511}, 8>, "table of blocks"},
    {Header<28, 1, 4>, "table for 1 blocks"},
    {Header<32, 0, 4>, "block size is 0"},
    {Header<32, 3 << 20, 4>, "block size is 3145728"},
    {Header<32, 2048, 4>, "block size is 2048"},
    {Header<32, 1u << 31, 4>, "block size is 2147483648"},
    {[](const std::string& path) { Truncate(path, 100); }, "too short"},
    {[](const std::string& path) { Truncate(path, 600); }, "header is at 512"},
};

void FaultsAreNamed() {
  for (const Fault& fault : kFaults) {
    const Directory directory;
    const std::string path = directory / "image";
    MakeImage(kDynamicVhd, path, kSizeBytes);
    fault.spoil(path);
    std::string why;
    CHECK(Open(kDynamicVhd, path, &why) < 0);
    if (why.find(fault.reason) == std::string::npos)
      std::fprintf(stderr, "%s: %s\n", fault.reason, why.c_str());
    CHECK(why.find(fault.reason) != std::string::npos);
  }
}

void FixedIsWhole() {
  const Directory directory;
  const std::string path = directory / "image";
  MakeImage(kFixedVhd, path, kSizeBytes);
  const Data footer = LastSector(path);
  Truncate(path, kSizeBytes / 2);
  Patch(path, kSizeBytes / 2 - kSectorBytes, footer);
  std::string why;

  CHECK(Open(kFixedVhd, path, &why) == -EINVAL);

  CHECK(why.find("cut short") != std::string::npos);
}

void BadBlocks() {
  const Directory directory;
  const std::string path = directory / "image";
  MakeImage(kDynamicVhd, path, kSizeBytes);
  Data good(kBlockBytes, std::byte{7});
  { CHECK(Disk(kDynamicVhd, path).Write(0, good) == 0); }
  const uint64_t last = std::filesystem::file_size(path) / kSectorBytes;
  // In the footer, header and table; in the last footer; behind the end; at the end of numbers.
  for (const uint64_t sector : {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{3}, last - 4097,
                                last, last + 8, uint64_t{0xfffffffe}}) {
    PatchBig(path, kTable + 4, sector, 4);
    Disk disk(kDynamicVhd, path);
    Data found(kSectorBytes);
    CHECK(disk.Read(kBlockBytes, found) == -EIO);
    CHECK(disk.Write(kBlockBytes, found) == -EIO);
    CHECK(disk.Zero(kBlockBytes, kSectorBytes, true) == -EIO);
    CHECK(disk.Read(0, found) == 0 && found[0] == std::byte{7});
  }
}

/// A block with data in all sectors of the file, of which the bitmap has `first` and the next.
std::string SparseBlock(const Directory& directory, uint64_t first) {
  std::string path = directory / "image";
  MakeImage(kDynamicVhd, path, kSizeBytes);
  { CHECK(Disk(kDynamicVhd, path).Write(0, Data(kBlockBytes, std::byte{7})) == 0); }
  const Data entry = Contents(path, kTable, 4);
  Data bitmap(kSectorBytes);
  for (const uint64_t sector : {first, first + 1})
    bitmap[sector / 8] |= std::byte{0x80} >> (sector % 8);
  Patch(path, vmm::LoadBig<uint32_t>(entry, 0) * kSectorBytes, bitmap);
  return path;
}

void BitmapIsHonoured() {
  constexpr uint64_t kFirst = 15;
  const Directory directory;
  const std::string path = SparseBlock(directory, kFirst);
  Data expected(kBlockBytes);
  std::fill_n(expected.begin() + kFirst * kSectorBytes, 2 * kSectorBytes, std::byte{7});
  Data found(kBlockBytes);
  {
    Disk disk(kDynamicVhd, path, true);
    CHECK(disk.Read(0, found) == 0 && found == expected);
  }
  {
    Disk disk(kDynamicVhd, path);
    std::fill_n(expected.begin(), kSectorBytes, std::byte{9});
    CHECK(disk.Write(0, std::span(expected).first(kSectorBytes)) == 0);
    CHECK(disk.Read(0, found) == 0 && found == expected);
  }
  // QEMU does not look at bitmaps.
  CHECK(QemuImg({"convert", "-f", "vpc", "-O", "raw", path, directory / "raw"}));
  CHECK(Contents(directory / "raw", 0, kBlockBytes) == expected);
  Disk disk(kDynamicVhd, path, true);
  CHECK(disk.Read(0, found) == 0 && found == expected);
}

void FooterIsPutBack() {
  const Directory directory;
  const std::string path = directory / "image";
  MakeImage(kDynamicVhd, path, kSizeBytes);
  { CHECK(Disk(kDynamicVhd, path).Write(0, Data(kSectorBytes, std::byte{7})) == 0); }
  const Data footer = LastSector(path);
  Truncate(path, std::filesystem::file_size(path) - kSectorBytes);
  const Data without = Contents(path);
  Data found(kSectorBytes);
  {
    Disk disk(kDynamicVhd, path, true);
    CHECK(disk.Read(0, found) == 0 && found[0] == std::byte{7});
  }
  CHECK(Contents(path) == without);

  const Disk disk(kDynamicVhd, path);

  CHECK(LastSector(path) == footer);
  CHECK(std::filesystem::file_size(path) == without.size() + kSectorBytes);
}

/// A page of the guest's is one of the file, and the old footer stands until there is a new one.
void NewBlocks() {
  const Directory directory;
  const std::string path = directory / "image";
  MakeImage(kDynamicVhd, path, kSizeBytes);
  const Data before = Contents(path);
  Disk disk(kDynamicVhd, path);
  for (const uint64_t offset : {kBlockBytes, uint64_t{0}}) {
    vmm::WritePlan plan;
    CHECK(disk.image().BeginWrite({offset, kSectorBytes}, &plan) == 0);
    CHECK(plan.offset % 4096 == 0);
    CHECK(disk.image().EndWrite(plan.ticket, true) == 0);
    CHECK(LastSector(path) == FirstSector(path));
  }
  CHECK(Contents(path, 0, before.size()) == before);
}

void ReadOnly() {
  for (const Format& format : {kFixedVhd, kDynamicVhd}) {
    const Directory directory;
    const std::string path = directory / "image";
    MakeImage(format, path, kSizeBytes);
    const Data before = Contents(path);
    {
      Disk disk(format, path, true);
      CHECK(disk.Write(0, Data(kSectorBytes)) == -EROFS);
      CHECK(disk.Zero(0, kSectorBytes, true) == -EROFS);
      CHECK(disk.image().Discard({0, kSectorBytes}) == -EROFS);
    }
    CHECK(Contents(path) == before);
  }
}

/// Reading and writing what is shared with direct I/O would race it.
void DirectIo() {
  const Directory directory;
  MakeImage(kDynamicVhd, directory / "image", kSizeBytes);
  const vmm::Fd fd(open((directory / "image").c_str(), O_RDWR | O_CLOEXEC));
  std::unique_ptr<vmm::Image> image;
  std::string why;

  CHECK(vmm::OpenVhd({.fd = fd.get(), .align_bytes = 4096}, false, &image, &why) == -EOPNOTSUPP);

  CHECK(why.find("direct=off") != std::string::npos);
}

}  // namespace

int main() {
  Test("a VHD is known by its last footer, and a dynamic one by its first", Detected);
  Test("a fixed disk stays one whatever its guest writes", FixedWhateverTheGuestWrites);
  Test("what is wrong with an image is named", FaultsAreNamed);
  Test("a fixed image that was cut short is refused", FixedIsWhole);
  Test("a block that cannot be where the table says is an error of its requests", BadBlocks);
  Test("sectors that a block does not have are zeroes, also after a write", BitmapIsHonoured);
  Test("a footer that a crash has cost is put back, unless read-only", FooterIsPutBack);
  Test("new blocks begin at a page, behind all that was there", NewBlocks);
  Test("nothing changes a read-only image", ReadOnly);
  Test("a dynamic image is not written past pages that it shares", DirectIo);
}
