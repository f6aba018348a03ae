#include "disk.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>

namespace vmm {
namespace {

/// No medium has larger blocks that O_DIRECT would care for.
constexpr uint32_t kAlignBytesMax = 4096;

struct Free {
  void operator()(void* memory) const { free(memory); }
};

/// Whether one read of so many bytes is direct I/O that the file system takes.
bool TakesReadOf(int fd, uint32_t bytes) {
  const std::unique_ptr<void, Free> memory(std::aligned_alloc(bytes, bytes));
  return memory != nullptr && pread(fd, memory.get(), bytes, 0) >= 0;
}

/// Kernels before 6.1, and some file systems after, do not say; then it is tried.
uint32_t DirectAlignBytes(int fd, uint32_t logical_bytes) {
#ifdef STATX_DIOALIGN
  struct statx stat {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stat) == 0 &&
      (stat.stx_mask & STATX_DIOALIGN) != 0 && stat.stx_dio_offset_align != 0)
    return std::max(stat.stx_dio_mem_align, stat.stx_dio_offset_align);
#endif
  uint32_t bytes = logical_bytes;
  while (bytes < kAlignBytesMax && !TakesReadOf(fd, bytes)) bytes *= 2;
  return bytes;
}

Status BlockDevice(int fd, DiskGeometry* out) {
  int logical = 0;
  int offset = 0;
  if (ioctl(fd, BLKGETSIZE64, &out->size_bytes) < 0) return {errno, "ioctl(BLKGETSIZE64)"};
  if (ioctl(fd, BLKSSZGET, &logical) < 0) return {errno, "ioctl(BLKSSZGET)"};
  out->logical_bytes = static_cast<uint32_t>(logical);
  if (ioctl(fd, BLKPBSZGET, &out->physical_bytes) < 0) return {errno, "ioctl(BLKPBSZGET)"};
  if (ioctl(fd, BLKIOMIN, &out->min_io_bytes) < 0) return {errno, "ioctl(BLKIOMIN)"};
  if (ioctl(fd, BLKIOOPT, &out->opt_io_bytes) < 0) return {errno, "ioctl(BLKIOOPT)"};
  if (ioctl(fd, BLKALIGNOFF, &offset) < 0) return {errno, "ioctl(BLKALIGNOFF)"};
  out->alignment_offset_bytes = static_cast<uint32_t>(std::max(0, offset));  // -1: misaligned
  return {};
}

}  // namespace

Status PrepareDisk(int fd, bool direct, DiskGeometry* out) {
  *out = DiskGeometry{};
  struct stat stat {};
  if (fstat(fd, &stat) < 0) return {errno, "fstat"};
  if (fcntl(fd, F_SETFL, direct ? O_DIRECT : 0) < 0) return {errno, "fcntl(F_SETFL)"};
  if (S_ISBLK(stat.st_mode)) {
    const Status status = BlockDevice(fd, out);
    if (!status.ok()) return status;
  } else {
    out->size_bytes = static_cast<uint64_t>(stat.st_size);
  }
  if (direct) out->direct_align_bytes = DirectAlignBytes(fd, out->logical_bytes);
  return {};
}

int LockDisk(int fd, DiskLock lock, uint64_t size_bytes) {
  constexpr short kTypes[] = {F_UNLCK, F_RDLCK, F_WRLCK};
  struct flock range {};
  range.l_type = kTypes[static_cast<size_t>(lock)];
  range.l_whence = SEEK_SET;
  range.l_len = static_cast<off_t>(size_bytes);
  return fcntl(fd, F_OFD_SETLK, &range) < 0 ? -errno : 0;
}

int PreallocateDisk(int fd, uint64_t size_bytes) {
  const off_t size = static_cast<off_t>(size_bytes);
  return fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size) < 0 ? -errno : 0;
}

}  // namespace vmm
