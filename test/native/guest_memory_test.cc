#include "../../native/memory/guest_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <random>
#include <string>
#include <thread>

#include "../../native/base/bounded_list.h"
#include "../../native/base/fd.h"
#include "../../native/base/thread.h"
#include "check.h"
#include "temporary_file.h"

namespace {

using vmm::GuestMemory;

constexpr uint64_t kPage = 4096;

int Add(GuestMemory* memory, uint64_t gpa, uint64_t size_bytes, bool shared = false) {
  return memory->Add({gpa, size_bytes, shared, false});
}

/// RAM at pages 1 and 2, which are two regions, and at page 4.
void Lay(GuestMemory* memory) {
  CHECK(Add(memory, kPage, kPage) == 0);
  CHECK(Add(memory, 2 * kPage, kPage, true) == 0);
  CHECK(Add(memory, 4 * kPage, kPage) == 0);
}

bool IsRam(const GuestMemory& memory, uint64_t gpa, uint64_t len) {
  std::vector<char> bytes(len);
  const int rc = memory.CopyOut(gpa, bytes.data(), len);
  CHECK(rc == 0 || rc == -EFAULT);
  CHECK(memory.CopyIn(gpa, bytes.data(), len) == rc);
  return rc == 0;
}

void RefusesBadRegions() {
  GuestMemory memory;
  constexpr uint64_t kEnd = uint64_t{1} << 52;
  CHECK(Add(&memory, 0, 0) == -EINVAL);
  CHECK(Add(&memory, 1, kPage) == -EINVAL);
  CHECK(Add(&memory, 0, kPage + 1) == -EINVAL);
  CHECK(Add(&memory, kEnd, kPage) == -EINVAL);
  CHECK(Add(&memory, kEnd - kPage, 2 * kPage) == -EINVAL);
  CHECK(Add(&memory, kPage, UINT64_MAX - kPage + 1) == -EINVAL);
  CHECK(Add(&memory, kEnd - kPage, kPage) == 0);
  CHECK(Add(&memory, 0, kEnd - kPage) < 0);  // more than the host can map
}

void RefusesOverlap() {
  GuestMemory memory;
  CHECK(Add(&memory, 4 * kPage, 4 * kPage) == 0);
  CHECK(Add(&memory, 3 * kPage, 2 * kPage) == -EEXIST);
  CHECK(Add(&memory, 7 * kPage, kPage) == -EEXIST);
  CHECK(Add(&memory, 0, 16 * kPage) == -EEXIST);
  CHECK(Add(&memory, 3 * kPage, kPage) == 0);
  CHECK(Add(&memory, 8 * kPage, kPage) == 0);
}

void BoundsRegions() {
  GuestMemory memory;
  int rc = 0;
  uint64_t count = 0;
  for (; rc == 0 && count < 100; ++count) rc = Add(&memory, count * kPage, kPage);
  CHECK(rc == -ENOSPC && count == 65);
}

void ChecksBounds() {
  GuestMemory memory;
  Lay(&memory);
  CHECK(IsRam(memory, kPage, 1) && IsRam(memory, kPage, 2 * kPage));
  CHECK(IsRam(memory, 3 * kPage - 1, 1) && !IsRam(memory, 3 * kPage - 1, 2));
  CHECK(!IsRam(memory, kPage - 1, 1) && !IsRam(memory, kPage - 1, 2));
  CHECK(!IsRam(memory, 2 * kPage, 3 * kPage));  // over the hole
  CHECK(!IsRam(memory, 0, 1) && !IsRam(memory, 5 * kPage, 1));
  CHECK(!IsRam(memory, UINT64_MAX, 1) && !IsRam(memory, UINT64_MAX - 1, 4));
  CHECK(IsRam(memory, 0, 0));  // nothing of nothing
  char byte = 0;
  CHECK(memory.CopyOut(kPage, &byte, UINT64_MAX) == -EFAULT);
  CHECK(memory.CopyOut(kPage, &byte, UINT64_MAX - kPage + 1) == -EFAULT);
}

void CopiesAcrossRegions() {
  GuestMemory memory;
  Lay(&memory);
  std::mt19937 random(1);
  std::vector<uint8_t> model(2 * kPage);
  for (int round = 0; round < 1000; ++round) {
    const uint64_t offset = random() % model.size();
    const uint64_t len = random() % (model.size() - offset + 1);
    for (uint64_t i = offset; i < offset + len; ++i) model[i] = static_cast<uint8_t>(random());
    CHECK(memory.CopyIn(kPage + offset, model.data() + offset, len) == 0);
  }
  std::vector<uint8_t> read(model.size());
  CHECK(memory.CopyOut(kPage, read.data(), read.size()) == 0);
  CHECK(read == model);
}

void CopiesAllOrNothing() {
  GuestMemory memory;
  Lay(&memory);
  const std::array<uint8_t, 8> ones{1, 1, 1, 1, 1, 1, 1, 1};
  std::array<uint8_t, 4> before{9, 9, 9, 9};
  CHECK(memory.CopyIn(3 * kPage - 4, ones.data(), ones.size()) == -EFAULT);
  CHECK(memory.CopyOut(3 * kPage - 4, before.data(), before.size()) == 0);
  CHECK((before == std::array<uint8_t, 4>{}));
}

void BoundsPieces() {
  GuestMemory memory;
  Lay(&memory);
  vmm::BoundedList<iovec, 1> one;
  CHECK(!memory.Snapshot()->Map(kPage, 2 * kPage, false, &one));
}

void Loads() {
  GuestMemory memory;
  Lay(&memory);
  const vmm::Fd file(memfd_create("test", MFD_CLOEXEC));
  const std::string text(2 * kPage, 'x');
  CHECK(write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  std::array<char, 2> edge{};

  CHECK(memory.Load(kPage, file.get(), 0, 2 * kPage) == 0);
  CHECK(memory.CopyOut(2 * kPage - 1, edge.data(), 2) == 0 && edge[0] == 'x' && edge[1] == 'x');
  CHECK(memory.Load(kPage, file.get(), 1, 2 * kPage) == -ENODATA);
  CHECK(memory.Load(kPage, file.get(), 1 << 20, 1) == -ENODATA);
  CHECK(memory.Load(kPage, file.get(), 1 << 20, 0) == 0);
  CHECK(memory.Load(2 * kPage, file.get(), 0, 2 * kPage) == -EFAULT);
  CHECK(memory.Load(kPage, file.get(), UINT64_MAX, 1) == -EINVAL);
  CHECK(memory.Load(kPage, -1, 0, 1) == -EBADF);
  std::array<int, 2> pipe_fds{};
  CHECK(pipe(pipe_fds.data()) == 0);
  CHECK(memory.Load(kPage, pipe_fds[0], 0, 1) == -ESPIPE);  // and does not wait
  for (const int fd : pipe_fds) close(fd);
}

vmm::RegionOptions OfFile(const vmm::Fd& file, uint64_t gpa) {
  vmm::RegionOptions options{gpa, 2 * kPage};
  options.fd = file.get();
  return options;
}

uint8_t FirstByte(const vmm::Fd& file) {
  uint8_t byte = 0;
  CHECK(pread(file.get(), &byte, 1, 0) == 1);
  return byte;
}

void MapsFiles() {
  const vmm::Fd file = TemporaryFile(2 * kPage);
  GuestMemory memory;
  vmm::RegionOptions copy = OfFile(file, 4 * kPage);
  copy.private_copy = true;
  CHECK(memory.Add(OfFile(file, 0)) == 0 && memory.Add(copy) == 0);
  const uint8_t one = 1;

  CHECK(memory.CopyIn(4 * kPage, &one, 1) == 0);
  CHECK(FirstByte(file) == 0);
  CHECK(memory.CopyIn(0, &one, 1) == 0);
  CHECK(FirstByte(file) == 1);
}

void KeepsReadonlyRegions() {
  const vmm::Fd file = TemporaryFile(2 * kPage);
  GuestMemory memory;
  vmm::RegionOptions readonly = OfFile(file, 0);
  readonly.readonly = true;
  CHECK(memory.Add(readonly) == 0 && Add(&memory, 2 * kPage, kPage) == 0);
  uint8_t byte = 1;
  vmm::BoundedList<iovec, 4> pieces;
  const auto regions = memory.Snapshot();

  CHECK(memory.CopyOut(0, &byte, 1) == 0 && byte == 0);
  CHECK(memory.CopyIn(0, &byte, 1) == -EFAULT);
  CHECK(memory.Load(0, file.get(), 0, 1) == -EFAULT);
  CHECK(regions->Contiguous(0, 1, false) != nullptr && regions->Contiguous(0, 1, true) == nullptr);
  CHECK(regions->Map(0, 3 * kPage, false, &pieces));
  CHECK(!regions->Map(kPage, 2 * kPage, true, &pieces) &&
        regions->Map(2 * kPage, 1, true, &pieces));
}

/// On a thread of ours, whose signals are blocked but for those that are meant for it.
void SurvivesShortFiles() {
  const vmm::Fd file = TemporaryFile(2 * kPage);
  GuestMemory memory;
  CHECK(memory.Add(OfFile(file, 0)) == 0);
  const auto ones = std::array<uint8_t, 2>{1, 1};
  CHECK(memory.CopyIn(kPage - 1, ones.data(), 2) == 0);

  CHECK(ftruncate(file.get(), 1) == 0);

  std::array<uint8_t, 2> bytes{9, 9};
  vmm::Thread("toucher", [&] {
    CHECK(memory.CopyOut(kPage - 1, bytes.data(), 2) == 0);
    CHECK(memory.CopyIn(kPage, ones.data(), 2) == 0);
  }).Join();
  CHECK((bytes == std::array<uint8_t, 2>{}));
}

/// A region that is removed stays mapped for who took a snapshot before.
void SnapshotsLive() {
  GuestMemory memory;
  Lay(&memory);
  auto snapshot = memory.Snapshot();
  memory.Clear();
  CHECK(!IsRam(memory, kPage, 1));
  *snapshot->all()[0].host = std::byte{1};
  std::jthread reader([&memory, held = std::move(snapshot)] {
    CHECK(held->all().size() == 3);
    for (int i = 0; i < 1000; ++i) CHECK(memory.Snapshot()->all().size() <= 1);
  });
  for (int i = 0; i < 100; ++i) {
    CHECK(Add(&memory, 0, kPage) == 0);
    memory.Clear();
  }
}

/// Another process has the same bytes, and cannot take them from us.
void SharesRam() {
  GuestMemory memory;
  vmm::RegionOptions shared{kPage, 2 * kPage};
  shared.shared = true;
  CHECK(memory.Add(shared) == 0);
  CHECK(Add(&memory, 16 * kPage, kPage) == 0);
  CHECK(memory.regions()[1].file == nullptr);
  const int fd = memory.regions()[0].file->get();
  void* theirs = mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(theirs != MAP_FAILED);
  static_cast<char*>(theirs)[kPage] = 7;
  char seen = 0;
  CHECK(memory.CopyOut(2 * kPage, &seen, 1) == 0 && seen == 7);
  CHECK(ftruncate(fd, kPage) < 0 && errno == EPERM);
  CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0 && errno == EPERM);
  munmap(theirs, 2 * kPage);
}

/// Only a mapping that its file gets the writes of can be another's, too.
void SharesWritableFilesOnly() {
  const vmm::Fd file = TemporaryFile(2 * kPage);
  GuestMemory memory;
  vmm::RegionOptions options{0, kPage};
  options.fd = file.get();
  options.file_offset = kPage;
  options.private_copy = true;
  CHECK(memory.Add(options) == 0);
  options.gpa = kPage, options.private_copy = false, options.readonly = true;
  CHECK(memory.Add(options) == 0);
  options.gpa = 2 * kPage, options.readonly = false;
  CHECK(memory.Add(options) == 0);
  const auto& regions = memory.regions();
  CHECK(regions[0].file == nullptr && regions[1].file == nullptr);
  CHECK(regions[2].file != nullptr && regions[2].file_offset == kPage);
}

bool IsOpenHere(const vmm::Fd& file, int but) {
  struct stat wanted {};
  CHECK(fstat(file.get(), &wanted) == 0);
  for (int fd = 0; fd < 256; ++fd) {
    struct stat found {};
    if (fd == but || fstat(fd, &found) < 0) continue;
    if (found.st_dev == wanted.st_dev && found.st_ino == wanted.st_ino) return true;
  }
  return false;
}

/// Who has a snapshot may be long: an idle queue keeps its last one. What the region consists of
/// does not wait for it.
void RemovesRegions() {
  const vmm::Fd file = TemporaryFile(2 * kPage);
  GuestMemory memory;
  Lay(&memory);
  CHECK(memory.Add(OfFile(file, 16 * kPage)) == 0);
  const auto before = memory.Snapshot();
  const std::array<uint8_t, 1> one{1};
  CHECK(memory.CopyIn(16 * kPage, one.data(), 1) == 0);
  CHECK(IsOpenHere(file, file.get()));

  const auto mapping = memory.Remove(16 * kPage);
  CHECK(mapping != nullptr && memory.Remove(16 * kPage) == nullptr);
  CHECK(memory.Remove(0) == nullptr && memory.Remove(17 * kPage) == nullptr);
  CHECK(!IsRam(memory, 16 * kPage, 1) && IsRam(memory, 4 * kPage, kPage));
  CHECK(!IsOpenHere(file, file.get()));
  CHECK(mapping->Empty() == 0);

  std::byte* held = before->Contiguous(16 * kPage, 1, true);
  CHECK(*held == std::byte{0});
  *held = std::byte{2};
  CHECK(FirstByte(file) == 1);
  CHECK(memory.Add(OfFile(file, 16 * kPage)) == 0);
  CHECK(memory.Snapshot()->Contiguous(16 * kPage, 1, true) != held);
}

/// Who writes while a region goes and comes either writes there or is told that it is no RAM.
void RemovesUnderWriters() {
  GuestMemory memory;
  CHECK(Add(&memory, 0, kPage) == 0);
  std::atomic<bool> done{false};
  const auto write = [&] {
    const std::array<uint8_t, 64> bytes{};
    while (!done.load()) {
      const auto regions = memory.Snapshot();
      std::byte* at = regions->Contiguous(kPage, bytes.size(), true);
      if (at == nullptr) continue;
      for (int i = 0; i < 100; ++i) std::memcpy(at, bytes.data(), bytes.size());
    }
  };
  {
    const std::jthread writer(write);
    for (int i = 0; i < 300; ++i) {
      CHECK(Add(&memory, kPage, 16 * kPage) == 0);
      CHECK(memory.Remove(kPage)->Empty() == 0);
    }
    done.store(true);
  }
  CHECK(memory.regions().size() == 1);
}

}  // namespace

int main() {
  Test("another process has the same RAM, and cannot take it from us", SharesRam);
  Test("what a file does not get the writes of is nobody else's", SharesWritableFilesOnly);
  Test("empty, unaligned and too high regions are refused", RefusesBadRegions);
  Test("overlapping regions are refused, neighbours are not", RefusesOverlap);
  Test("there is a limit to the regions", BoundsRegions);
  Test("an access must be RAM wholly", ChecksBounds);
  Test("copies go across regions", CopiesAcrossRegions);
  Test("a refused copy changes nothing", CopiesAllOrNothing);
  Test("a range of too many pieces is refused", BoundsPieces);
  Test("a file is mapped, or a copy of it that is nobody else's", MapsFiles);
  Test("nothing is written to what is mapped to be read", KeepsReadonlyRegions);
  Test("of a file that was cut short zeroes are left, and who touches them", SurvivesShortFiles);
  Test("files are loaded, and short or bad ones refused", Loads);
  Test("a snapshot outlives what it shows", SnapshotsLive);
  Test("a removed region gives all back but its addresses", RemovesRegions);
  Test("regions come and go under those who write there", RemovesUnderWriters);
}
