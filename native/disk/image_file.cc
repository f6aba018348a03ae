#include "image_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>

namespace vmm {
namespace {

struct Free {
  void operator()(void* at) const { std::free(at); }
};

/// What surrounds a range up to whole blocks, in memory that O_DIRECT takes.
struct Blocks {
  Blocks(uint64_t offset, size_t wanted, uint64_t align)
      : first(offset / align * align),
        length((offset + wanted + align - 1) / align * align - first),
        bytes(static_cast<std::byte*>(std::aligned_alloc(align, length))) {}

  uint64_t first;
  size_t length;
  std::unique_ptr<std::byte, Free> bytes;
};

/// `call` reads or writes at an offset; returns how much was moved, or a negative errno.
template <class Byte, class Call>
int64_t MoveAll(Byte* at, uint64_t offset, size_t length, Call call) {
  size_t moved = 0;
  while (moved < length) {
    const ssize_t n = call(at + moved, length - moved, static_cast<off_t>(offset + moved));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -errno;
    if (n == 0) break;
    moved += static_cast<size_t>(n);
  }
  return static_cast<int64_t>(moved);
}

int64_t ReadUpTo(int fd, uint64_t offset, std::byte* into, size_t length) {
  return MoveAll(into, offset, length,
                 [fd](std::byte* at, size_t n, off_t from) { return pread(fd, at, n, from); });
}

int WriteAll(int fd, uint64_t offset, const std::byte* from, size_t length) {
  const int64_t moved =
      MoveAll(from, offset, length,
              [fd](const std::byte* at, size_t n, off_t to) { return pwrite(fd, at, n, to); });
  if (moved < 0) return static_cast<int>(moved);
  return static_cast<size_t>(moved) == length ? 0 : -ENOSPC;
}

}  // namespace

int ImageFile::Read(uint64_t offset, std::span<std::byte> into) const {
  if (file_.align_bytes <= 1) {
    const int64_t got = ReadUpTo(file_.fd, offset, into.data(), into.size());
    if (got < 0) return static_cast<int>(got);
    return static_cast<size_t>(got) == into.size() ? 0 : -ENODATA;
  }
  const Blocks blocks(offset, into.size(), file_.align_bytes);
  if (blocks.bytes == nullptr) return -ENOMEM;
  const int64_t got = ReadUpTo(file_.fd, blocks.first, blocks.bytes.get(), blocks.length);
  if (got < 0) return static_cast<int>(got);
  const size_t skipped = offset - blocks.first;
  if (static_cast<size_t>(got) < skipped + into.size()) return -ENODATA;
  std::memcpy(into.data(), blocks.bytes.get() + skipped, into.size());
  return 0;
}

int ImageFile::Write(uint64_t offset, std::span<const std::byte> from) const {
  if (file_.align_bytes <= 1) return WriteAll(file_.fd, offset, from.data(), from.size());
  const Blocks blocks(offset, from.size(), file_.align_bytes);
  if (blocks.bytes == nullptr) return -ENOMEM;
  std::memset(blocks.bytes.get(), 0, blocks.length);
  // What lies behind the end of the file stays zeroes.
  const int64_t got = ReadUpTo(file_.fd, blocks.first, blocks.bytes.get(), blocks.length);
  if (got < 0) return static_cast<int>(got);
  std::memcpy(blocks.bytes.get() + (offset - blocks.first), from.data(), from.size());
  return WriteAll(file_.fd, blocks.first, blocks.bytes.get(), blocks.length);
}

int ImageFile::Sync() const { return fdatasync(file_.fd) < 0 ? -errno : 0; }

int ImageFile::Size(uint64_t* size_bytes) const {
  if (file_.block_device) return ioctl(file_.fd, BLKGETSIZE64, size_bytes) < 0 ? -errno : 0;
  struct stat stat {};
  if (fstat(file_.fd, &stat) < 0) return -errno;
  *size_bytes = static_cast<uint64_t>(stat.st_size);
  return 0;
}

int ImageFile::Resize(uint64_t size_bytes) const {
  if (file_.block_device) return -EOPNOTSUPP;
  return ftruncate(file_.fd, static_cast<off_t>(size_bytes)) < 0 ? -errno : 0;
}

int ImageFile::CutTo(uint64_t end_bytes) const {
  uint64_t has_bytes = 0;
  const int rc = Size(&has_bytes);
  return rc == 0 && has_bytes > end_bytes ? Resize(end_bytes) : rc;
}

int ImageFile::Punch(uint64_t offset, uint64_t length) const {
  if (file_.block_device) {
    uint64_t range[] = {offset, length};
    return ioctl(file_.fd, BLKZEROOUT, range) < 0 ? -errno : 0;
  }
  const int rc = fallocate(file_.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           static_cast<off_t>(offset), static_cast<off_t>(length));
  return rc < 0 ? -errno : 0;
}

}  // namespace vmm
