#include "../../native/disk/vhdx.h"

#include "vhdx_image.h"

namespace {

constexpr uint64_t kSizeBytes = 32 << 20;
constexpr uint64_t kBlockBytes = 8 << 20;
constexpr uint64_t kSectorBytes = 512;

/// What is wrong, and what is said of it.
struct Fault {
  void (*spoil)(const std::string& path);
  const char* reason;
};

template <uint64_t offset, uint64_t value, size_t size>
void Headers(const std::string& path) {
  for (const uint64_t header : kHeaders) {
    PatchLittle(path, header + offset, value, size);
    Seal(path, header, 4096);
  }
}

template <uint64_t offset, uint64_t value, size_t size>
void Regions(const std::string& path) {
  for (const uint64_t table : kRegionTables) {
    PatchLittle(path, table + offset, value, size);
    Seal(path, table, 64 << 10);
  }
}

template <uint64_t offset, uint64_t value, size_t size>
void Metadata(const std::string& path) {
  PatchLittle(path, offset, value, size);
}

/// Without a checksum.
template <uint64_t first, uint64_t second>
void Damage(const std::string& path) {
  PatchLittle(path, first + 4, 1, 4);
  PatchLittle(path, second + 4, 1, 4);
}

// The table of blocks is the first region and the metadata are the second; of the metadata come
// file parameters, disk size, page 83, logical and physical sector size.
constexpr Fault kFaults[] = {
    {Metadata<0, 0, 1>, "no VHDX"},
    {Damage<kHeaders[0], kHeaders[1]>, "headers are damaged"},
    {[](const std::string& path) {
       Headers<8, 5, 8>(path);
       PatchLittle(path, kHeaders[1] + 80, 1, 1);
       Seal(path, kHeaders[1], 4096);
     },
     "claim to be the last"},
    {Headers<66, 2, 2>, "version 2"},
    {[](const std::string& path) {
       Headers<48, 1, 8>(path);
       Headers<64, 1, 2>(path);
     },
     "log cannot be"},
    {[](const std::string& path) {
       Headers<48, 1, 8>(path);
       Headers<72, kMiB + 4096, 8>(path);
     },
     "log cannot be"},
    {[](const std::string& path) {
       Headers<48, 1, 8>(path);
       Headers<72, ~uint64_t{kMiB - 1}, 8>(path);
     },
     "log cannot be"},
    {[](const std::string& path) {
       Headers<48, 1, 8>(path);
       Headers<68, 256 * kMiB, 4>(path);
     },
     "log lies behind its end"},
    {Headers<48, 1, 8>, "log is damaged"},
    {Damage<kRegionTables[0], kRegionTables[1]>, "region tables are damaged"},
    {Regions<8, 2048, 4>, "region tables are damaged"},
    {Regions<8, 1, 4>, "no metadata"},
    {[](const std::string& path) {
       Regions<16, 1, 1>(path);
       Regions<44, 1, 4>(path);
     },
     "region 2DC27701-F623-4200-9D64-115E9BFD4A08"},
    {Regions<32, 0, 8>, "lies where none can be"},
    {Regions<32, 2 * kMiB + 512, 8>, "lies where none can be"},
    {Regions<32, 1ull << 40, 8>, "lies where none can be"},
    {Regions<32, ~uint64_t{kMiB - 1}, 8>, "lies where none can be"},
    {Regions<32, kMiB, 8>, "overlap"},
    {Regions<32, 3 * kMiB, 8>, "overlap"},
    {Regions<40, 0, 4>, "lies where none can be"},
    {Regions<40, 2 * kMiB, 4>, "overlap"},
    {Metadata<kMetadata, 0, 1>, "metadata are damaged"},
    {Metadata<kMetadata + 10, 2048, 2>, "metadata are damaged"},
    {Metadata<kMetadata + 10, 1, 2>, "lacks required metadata"},
    {Metadata<kMetadata + 32, 1, 1>, "metadata item CAA16701-FA36-4D43-B3B6-33F0AA44E76B"},
    {Metadata<kMetadata + 48, 0xfffffff0, 4>, "no place there"},
    {Metadata<kMetadata + 52, 7, 4>, "no place there"},
    {Metadata<kItems, 0, 4>, "blocks have 0 bytes"},
    {Metadata<kItems, 3 * kMiB, 4>, "blocks have 3145728 bytes"},
    {Metadata<kItems, 512 * kMiB, 4>, "blocks have 536870912 bytes"},
    {Metadata<kItems + 4, 2, 4>, "Merge-VHD"},
    {Metadata<kItems + 8, 0, 8>, "disk has 0 bytes"},
    {Metadata<kItems + 8, 513, 8>, "disk has 513 bytes"},
    {Metadata<kItems + 8, uint64_t{65} << 40, 8>, "up to 64 TiB"},
    {Metadata<kItems + 8, uint64_t{64} << 40, 8>, "table of blocks is too short"},
    {Metadata<kItems + 32, 1024, 4>, "sectors have 1024"},
    {Metadata<kItems + 36, 0, 4>, "sectors have 512 and 0"},
};

void FaultsAreNamed() {
  for (const Fault& fault : kFaults) {
    const Directory directory;
    const std::string path = directory / "image";
    MakeImage(kDynamicVhdx, path, kSizeBytes);
    fault.spoil(path);
    std::string why;
    const int rc = Open(kDynamicVhdx, path, &why);
    if (rc == 0 || why.find(fault.reason) == std::string::npos)
      std::fprintf(stderr, "%s: %s\n", fault.reason, why.c_str());
    CHECK(rc < 0 && why.find(fault.reason) != std::string::npos);
  }
}

/// Sparse, it costs the host nothing to keep.
void LargeTable() {
  const Directory directory;
  const std::string path = directory / "image";
  MakeImage(kDynamicVhdx, path, kSizeBytes);
  Regions<32, 16 * kMiB, 8>(path);
  Regions<40, 64 * kMiB, 4>(path);
  std::filesystem::resize_file(path, 80 * kMiB);
  PatchLittle(path, kItems, kMiB, 4);
  PatchLittle(path, kItems + 8, uint64_t{4} << 40, 8);
  std::string why;

  CHECK(Open(kDynamicVhdx, path, &why) == -EOPNOTSUPP);

  CHECK(why.find("more than 3 million") != std::string::npos);
}

void OneOfTwoIsEnough() {
  const Directory directory;
  const std::string path = directory / "image";
  MakeImage(kDynamicVhdx, path, kSizeBytes);
  Damage<kHeaders[1], kRegionTables[0]>(path);

  Disk disk(kDynamicVhdx, path);

  CHECK(disk.image().size_bytes() == kSizeBytes);
}

void BadBlocks() {
  const Directory directory;
  const std::string path = directory / "image";
  MakeImage(kDynamicVhdx, path, kSizeBytes);
  { CHECK(Disk(kDynamicVhdx, path).Write(0, Data(kBlockBytes, std::byte{7})) == 0); }
  const uint64_t end = std::filesystem::file_size(path);
  // In headers, log, table, metadata; over the end; behind it; at the end of numbers; bad states.
  for (const uint64_t entry :
       {uint64_t{6}, kLog | 6, kTable | 6, kMetadata | 6, (end - kMiB) | 6, end | 6,
        ~uint64_t{kMiB - 1} | 6, EntryOf(path, 0) | 7, uint64_t{4}, uint64_t{5}}) {
    PatchLittle(path, kTable + 8, entry, 8);
    Disk disk(kDynamicVhdx, path);
    Data found(kSectorBytes);
    CHECK(disk.Read(kBlockBytes, found) == -EIO);
    CHECK(disk.Write(kBlockBytes, found) == -EIO);
    CHECK(disk.image().Discard({kBlockBytes, kSectorBytes}) == -EIO);
    CHECK(disk.Read(0, found) == 0 && found[0] == std::byte{7});
  }
}

/// Whatever stands where they were.
void BlocksThatWereGivenUp() {
  for (const uint64_t state : {0, 1, 2, 3}) {
    const Directory directory;
    const std::string path = directory / "image";
    MakeImage(kDynamicVhdx, path, kSizeBytes);
    { CHECK(Disk(kDynamicVhdx, path).Write(0, Data(kBlockBytes, std::byte{7})) == 0); }
    PatchLittle(path, kTable, (EntryOf(path, 0) & ~uint64_t{7}) | state, 8);
    Disk disk(kDynamicVhdx, path);
    Data found(kBlockBytes), expected(kBlockBytes);

    CHECK(disk.Read(0, found) == 0 && found == expected);

    std::fill_n(expected.begin() + 4096, kSectorBytes, std::byte{9});
    CHECK(disk.Write(4096, Data(kSectorBytes, std::byte{9})) == 0);
    CHECK(disk.Read(0, found) == 0 && found == expected);
  }
}

void LargeSectors() {
  const Directory directory;
  const std::string path = directory / "image";
  MakeImage(kDynamicVhdx, path, kSizeBytes);
  PatchLittle(path, kItems + 32, 4096, 4);

  CHECK(Disk(kDynamicVhdx, path).image().sector_bytes() == 4096);
}

void HeadersAreRenewed() {
  const Directory directory;
  const std::string path = directory / "image";
  MakeImage(kDynamicVhdx, path, kSizeBytes);
  const auto guids = [&path](uint64_t header) { return Contents(path, header + 16, 32); };
  const auto sequence = [&path](uint64_t header) {
    return vmm::LoadLittle<uint64_t>(Contents(path, header + 8, 8), 0);
  };
  const Data before = guids(kHeaders[0]);
  const uint64_t last = std::max(sequence(kHeaders[0]), sequence(kHeaders[1]));
  { const Disk disk(kDynamicVhdx, path, true); }
  CHECK(guids(kHeaders[0]) == before && guids(kHeaders[1]) == before);

  { const Disk disk(kDynamicVhdx, path); }

  const Data after = guids(kHeaders[0]);
  CHECK(after == guids(kHeaders[1]));
  for (const size_t guid : {0, 16})
    CHECK(!std::equal(after.begin() + guid, after.begin() + guid + 16, before.begin() + guid));
  CHECK(std::min(sequence(kHeaders[0]), sequence(kHeaders[1])) == last + 1);
  CHECK(std::max(sequence(kHeaders[0]), sequence(kHeaders[1])) == last + 2);
}

/// A number that nothing comes after.
void LastHeader() {
  const Directory directory;
  const std::string path = directory / "image";
  MakeImage(kDynamicVhdx, path, kSizeBytes);
  PatchLittle(path, kHeaders[0] + 8, UINT64_MAX, 8);
  Seal(path, kHeaders[0], 4096);
  std::string why;

  CHECK(Open(kDynamicVhdx, path, &why) == -EOVERFLOW);

  CHECK(Open(kDynamicVhdx, path, &why, true) == 0);
}

}  // namespace

int main() {
  Test("what is wrong with an image is named", FaultsAreNamed);
  Test("a table larger than what we keep is refused", LargeTable);
  Test("one header and one region table are enough", OneOfTwoIsEnough);
  Test("a block that cannot be as the table says is an error of its requests", BadBlocks);
  Test("blocks that were given up are zeroes, also around a write", BlocksThatWereGivenUp);
  Test("sectors of 4096 bytes are told", LargeSectors);
  Test("both headers say that an image was opened for writing", HeadersAreRenewed);
  Test("an image whose headers cannot be renewed is read-only", LastHeader);
}
