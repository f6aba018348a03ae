#include "../../native/disk/vhdx_log.h"

#include "vhdx_image.h"

namespace {

constexpr uint64_t kSizeBytes = 32 << 20;
constexpr uint64_t kBlockBytes = 8 << 20;
constexpr size_t kSectorBytes = 4096;
constexpr size_t kLogGuidAt = 48;
constexpr size_t kLogLengthAt = 68;
constexpr uint64_t kData = 8 << 20;  // where QEMU puts the first block
constexpr uint64_t kFileBytes = 16 << 20;

const vmm::VhdxGuid kGuid = {std::byte{1}, std::byte{2}};

/// What an entry is to do: a sector of `fill` at `offset`, or `length` zeroes.
struct Change {
  uint64_t offset = 0;
  std::byte fill = {};
  uint64_t length = 0;  // 0 if it is data
};

struct Entry {
  uint64_t sequence = 0;
  uint64_t tail = 0;
  std::vector<Change> changes = {};
  uint64_t flushed_file = kFileBytes;
  uint64_t last_file = kFileBytes;
};

/// The first sector is the only one with descriptors.
Data BytesOf(const Entry& entry) {
  Data bytes(kSectorBytes);
  const auto text = [&bytes](size_t at, const char* what) {
    std::memcpy(&bytes[at], what, std::strlen(what));
  };
  text(0, "loge");
  vmm::StoreLittle(bytes, 12, static_cast<uint32_t>(entry.tail));
  vmm::StoreLittle(bytes, 16, entry.sequence);
  vmm::StoreLittle(bytes, 24, static_cast<uint32_t>(entry.changes.size()));
  std::copy(kGuid.begin(), kGuid.end(), bytes.begin() + 32);
  vmm::StoreLittle(bytes, 48, entry.flushed_file);
  vmm::StoreLittle(bytes, 56, entry.last_file);
  size_t at = 64;
  for (const Change& change : entry.changes) {
    text(at, change.length == 0 ? "desc" : "zero");
    std::fill_n(bytes.begin() + static_cast<ptrdiff_t>(at) + 4, 12, change.fill);
    if (change.length > 0) vmm::StoreLittle(bytes, at + 8, change.length);
    vmm::StoreLittle(bytes, at + 16, change.offset);
    vmm::StoreLittle(bytes, at + 24, entry.sequence);
    at += 32;
    if (change.length > 0) continue;
    const size_t sector = bytes.size();
    bytes.resize(sector + kSectorBytes, change.fill);
    text(sector, "data");
    vmm::StoreLittle(bytes, sector + 4, static_cast<uint32_t>(entry.sequence >> 32));
    vmm::StoreLittle(bytes, bytes.size() - 4, static_cast<uint32_t>(entry.sequence));
  }
  vmm::StoreLittle(bytes, 8, static_cast<uint32_t>(bytes.size()));
  Seal(&bytes);
  return bytes;
}

void SetLog(const std::string& path, const vmm::VhdxGuid& guid) {
  for (const uint64_t header : kHeaders) {
    Patch(path, header + kLogGuidAt, guid);
    Seal(path, header, kSectorBytes);
  }
}

/// An image with one block, all of sevens, that was not closed.
std::string MakeLogged(const Directory& directory) {
  std::string path = directory / "image";
  MakeImage(kDynamicVhdx, path, kSizeBytes);
  { CHECK(Disk(kDynamicVhdx, path).Write(0, Data(kBlockBytes, std::byte{7})) == 0); }
  CHECK(std::filesystem::file_size(path) == kFileBytes);
  SetLog(path, kGuid);
  return path;
}

/// Puts an entry at `at` of the log, which is a ring. Returns where it ends.
uint64_t Put(const std::string& path, uint64_t at, const Entry& entry) {
  const Data bytes = BytesOf(entry);
  for (size_t done = 0; done < bytes.size(); done += kSectorBytes)
    Patch(path, kLog + (at + done) % kMiB, std::span(bytes).subspan(done, kSectorBytes));
  return (at + bytes.size()) % kMiB;
}

std::byte ByteAt(const std::string& path, uint64_t offset) { return Contents(path, offset, 1)[0]; }

void ByQemu() {
  const Directory directory;
  const std::string path = directory / "image";
  MakeImage(kDynamicVhdx, path, kSizeBytes);
  CHECK(QemuIo({"-f", "vhdx", "-c", "write -P 5 9M 64k", path}));
  // As if QEMU had come no further than to write its log.
  PatchLittle(path, kTable + 8, 0, 8);
  SetLog(path, vmm::LoadGuid(Contents(path, kLog + 32, 16), 0));
  std::string why;
  CHECK(Open(kDynamicVhdx, path, &why, true) == -EROFS);
  CHECK(why.find("not closed") != std::string::npos);
  {
    Disk disk(kDynamicVhdx, path);
    Data found(64 << 10);
    CHECK(disk.Read(9 << 20, found) == 0 && found == Data(64 << 10, std::byte{5}));
  }
  CHECK(Contents(path, kHeaders[0] + kLogGuidAt, 16) == Data(16));
  CHECK(Contents(path, kHeaders[1] + kLogGuidAt, 16) == Data(16));
  CHECK(QemuImg({"check", "-q", "-f", "vhdx", path}));
}

/// Round the end of the ring, after an older sequence and before an entry that was cut off.
void NewestSequence() {
  const Directory directory;
  const std::string path = MakeLogged(directory);
  const uint64_t begin = kMiB - 2 * kSectorBytes;
  Put(path, 512 << 10, {90, 512 << 10, {{kData, std::byte{1}}}});
  uint64_t at = Put(path, begin, {100, begin, {{kData, std::byte{2}}, {kData + 8192, {}, 8192}}});
  at = Put(path, at, {101, begin, {{kData + 4096, std::byte{3}}, {kData, std::byte{4}}}});
  Put(path, at, {102, begin, {{kData, std::byte{5}}}});
  PatchLittle(path, kLog + at + 100, 1, 1);

  CHECK(Disk(kDynamicVhdx, path).Flush() == 0);

  CHECK(Contents(path, kData, 4096) == Data(4096, std::byte{4}));
  CHECK(Contents(path, kData + 4096, 4096) == Data(4096, std::byte{3}));
  CHECK(Contents(path, kData + 8192, 8192) == Data(8192));
  CHECK(ByteAt(path, kData + 16384) == std::byte{7});
}

/// What the last entry calls the tail is where it begins, whatever else is before or is older.
void FromTheTail() {
  const Directory directory;
  const std::string path = MakeLogged(directory);
  const uint64_t tail = Put(path, 0, {11, 0, {{kData, std::byte{1}}}});
  Put(path, tail, {12, tail, {{kData + 4096, std::byte{2}}}});
  Put(path, 512 << 10, {10, 512 << 10, {{kData, std::byte{3}}}});

  CHECK(Disk(kDynamicVhdx, path).Flush() == 0);

  CHECK(ByteAt(path, kData) == std::byte{7} && ByteAt(path, kData + 4096) == std::byte{2});
}

void OtherLogs() {
  const Directory directory;
  const std::string path = MakeLogged(directory);
  Put(path, 0, {5, 0, {{kData, std::byte{1}}}});
  SetLog(path, {std::byte{9}});
  std::string why;

  CHECK(Open(kDynamicVhdx, path, &why) == -EINVAL);

  CHECK(why.find("log is damaged") != std::string::npos);
  CHECK(ByteAt(path, kData) == std::byte{7});
}

void SizeOfFile() {
  const Directory directory;
  const std::string path = MakeLogged(directory);
  Put(path, 0, {1, 0, {{20 * kMiB, std::byte{1}}}, kFileBytes, 24 * kMiB});
  CHECK(Disk(kDynamicVhdx, path).Flush() == 0);
  CHECK(std::filesystem::file_size(path) == 24 * kMiB);
  CHECK(ByteAt(path, 20 * kMiB) == std::byte{1});

  for (const uint64_t last : {uint64_t{0}, uint64_t{1} << 60}) {
    SetLog(path, kGuid);
    Put(path, 0, {1, 0, {}, last == 0 ? 25 * kMiB : 0, last});
    std::string why;
    CHECK(Open(kDynamicVhdx, path, &why) == -EINVAL);
    CHECK(why.find("shorter than its log says") != std::string::npos);
  }
}

void BadTargets() {
  for (const Change& change : {
           Change{kHeaders[0], std::byte{1}},
           Change{kLog + 8192, std::byte{1}},
           Change{kData + 512, std::byte{1}},
           Change{kFileBytes, std::byte{1}},
           Change{~uint64_t{4095}, std::byte{1}},
           Change{kData, {}, kFileBytes},
           Change{kData, {}, ~uint64_t{0}},
           Change{kHeaders[1], {}, 64 << 20},
       }) {
    const Directory directory;
    const std::string path = MakeLogged(directory);
    Put(path, 0, {1, 0, {change}});
    const Data before = Contents(path);
    std::string why;
    CHECK(Open(kDynamicVhdx, path, &why) == -EIO);
    CHECK(why.find("cannot be replayed") != std::string::npos);
    CHECK(Contents(path) == before);
  }
}

/// Each sector claims to begin an entry that is as long as the log: whoever read all of each would
/// not come to an end.
void FalseEntries() {
  constexpr uint64_t kLogBytes = 32 << 20;
  const Directory directory;
  const std::string path = directory / "image";
  MakeImage(kDynamicVhdx, path, kSizeBytes, ",log_size=" + std::to_string(kLogBytes));
  SetLog(path, kGuid);
  Data bytes = BytesOf({1, 0, {}});
  vmm::StoreLittle(bytes, 8, static_cast<uint32_t>(kLogBytes));
  for (uint64_t at = 0; at < kLogBytes; at += kSectorBytes) Patch(path, kLog + at, bytes);
  std::string why;

  CHECK(Open(kDynamicVhdx, path, &why) == -EINVAL);
}

void LargeLog() {
  const Directory directory;
  const std::string path = directory / "image";
  MakeImage(kDynamicVhdx, path, kSizeBytes, ",log_size=65M");
  SetLog(path, kGuid);
  CHECK(vmm::LoadLittle<uint32_t>(Contents(path, kHeaders[0], 4096), kLogLengthAt) == 65 * kMiB);
  std::string why;

  CHECK(Open(kDynamicVhdx, path, &why) == -EOPNOTSUPP);
}

}  // namespace

int main() {
  Test("a log that QEMU wrote is replayed, but not into a read-only image", ByQemu);
  Test("of several sequences in the log the newest that is whole counts", NewestSequence);
  Test("nothing before the tail is replayed", FromTheTail);
  Test("entries of another log do not count", OtherLogs);
  Test("the file gets the size that its log needs, and must have the one that it had", SizeOfFile);
  Test("nothing is written where no log may write", BadTargets);
  Test("a log of nothing but false beginnings is soon read", FalseEntries);
  Test("a log that is too large is refused", LargeLog);
}
