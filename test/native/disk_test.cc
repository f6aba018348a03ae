#include "../../native/sys/disk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>

#include "../../native/base/fd.h"
#include "check.h"

namespace {

using vmm::DiskGeometry;
using vmm::DiskLock;
using vmm::Fd;
using vmm::LockDisk;
using vmm::PrepareDisk;

constexpr uint64_t kSizeBytes = 1 << 20;

/// A file of zeros that is gone at the end; each Open is an open file of its own.
class Image {
 public:
  Image() {
    const Fd fd(mkstemp(path_.data()));
    CHECK(fd.ok() && ftruncate(fd.get(), kSizeBytes) == 0);
  }
  ~Image() { unlink(path_.c_str()); }
  Fd Open(int flags = O_RDWR) const { return Fd(open(path_.c_str(), flags | O_NONBLOCK)); }

 private:
  std::string path_ = "/var/tmp/disk-XXXXXX";
};

void OfAFile() {
  const Image image;
  const Fd fd = image.Open();
  DiskGeometry geometry;
  CHECK(PrepareDisk(fd.get(), false, &geometry).ok());
  CHECK(geometry.size_bytes == kSizeBytes);
  CHECK(geometry.logical_bytes == 512 && geometry.physical_bytes == 512);
  CHECK(geometry.direct_align_bytes == 1);
}

void MayWait() {
  const Image image;
  const Fd fd = image.Open();
  DiskGeometry geometry;
  CHECK(PrepareDisk(fd.get(), false, &geometry).ok());
  CHECK((fcntl(fd.get(), F_GETFL) & (O_NONBLOCK | O_DIRECT)) == 0);
}

void Direct() {
  const Image image;
  const Fd fd = image.Open();
  DiskGeometry geometry;
  const vmm::Status status = PrepareDisk(fd.get(), true, &geometry);
  if (status.error == EINVAL) return;  // not with this file system
  CHECK(status.ok() && (fcntl(fd.get(), F_GETFL) & O_DIRECT) != 0);
  const uint32_t align = geometry.direct_align_bytes;
  CHECK(align >= 512 && (align & (align - 1)) == 0);
  void* memory = nullptr;
  CHECK(posix_memalign(&memory, align, align) == 0);
  CHECK(pread(fd.get(), memory, align, align) == static_cast<ssize_t>(align));
  free(memory);
}

void NoFile() {
  DiskGeometry geometry;
  CHECK(PrepareDisk(-1, false, &geometry).error == EBADF);
}

void Exclusive() {
  const Image image;
  const Fd one = image.Open();
  const Fd other = image.Open();
  for (const uint64_t size : {uint64_t{0}, kSizeBytes}) {
    CHECK(LockDisk(one.get(), DiskLock::kExclusive, size) == 0);
    CHECK(LockDisk(other.get(), DiskLock::kExclusive, size) == -EAGAIN);
    CHECK(LockDisk(other.get(), DiskLock::kShared, size) == -EAGAIN);
    CHECK(LockDisk(one.get(), DiskLock::kNone, 0) == 0);
  }
  CHECK(LockDisk(other.get(), DiskLock::kExclusive, 0) == 0);
}

void Shared() {
  const Image image;
  const Fd one = image.Open(O_RDONLY);
  const Fd other = image.Open(O_RDONLY);
  const Fd writer = image.Open();
  CHECK(LockDisk(one.get(), DiskLock::kShared, kSizeBytes) == 0);
  CHECK(LockDisk(other.get(), DiskLock::kShared, kSizeBytes) == 0);
  CHECK(LockDisk(writer.get(), DiskLock::kExclusive, kSizeBytes) == -EAGAIN);
}

/// All of the file conflicts with any part of it; what comes after the size is free.
void Ranges() {
  const Image image;
  const Fd one = image.Open();
  const Fd other = image.Open();
  CHECK(LockDisk(one.get(), DiskLock::kExclusive, kSizeBytes) == 0);
  CHECK(LockDisk(other.get(), DiskLock::kExclusive, 0) == -EAGAIN);
  struct flock after {};
  after.l_type = F_WRLCK;
  after.l_start = kSizeBytes;
  CHECK(fcntl(other.get(), F_OFD_SETLK, &after) == 0);
}

void Room() {
  const Image image;
  const Fd fd = image.Open();
  const int rc = vmm::PreallocateDisk(fd.get(), kSizeBytes);
  if (rc == -EOPNOTSUPP) return;  // not with this file system
  struct stat stat {};
  CHECK(rc == 0 && fstat(fd.get(), &stat) == 0);
  CHECK(stat.st_size == static_cast<off_t>(kSizeBytes));
  CHECK(stat.st_blocks * 512 >= static_cast<off_t>(kSizeBytes));
}

}  // namespace

int main() {
  Test("a file has its size and blocks of 512 bytes", OfAFile);
  Test("a file that was opened without waiting waits from now on", MayWait);
  Test("direct I/O works with the alignment that is told", Direct);
  Test("what is no open file is refused", NoFile);
  Test("an exclusive lock keeps all others out until it is given back", Exclusive);
  Test("shared locks keep out writers alone", Shared);
  Test("a lock is on the bytes of the image", Ranges);
  Test("room is set aside for all of a sparse file", Room);
}
