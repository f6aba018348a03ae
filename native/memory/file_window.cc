#include "file_window.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <atomic>
#include <iterator>

namespace vmm {
namespace {

constexpr uint64_t kPageBytes = 4096;
/// Host and guest addresses agree up to this, so that huge pages of one are those of the other.
constexpr uint64_t kAlignBytes = uint64_t{2} << 20;

/// Of all windows of the process. Each part can cost two of the mappings that Linux allows, 65,530,
/// and a process without a mapping left dies.
constexpr size_t kPartsMax = 16'384;
std::atomic<size_t> parts_count = 0;

/// False, and nothing is taken, if there are not so many left.
bool TakeParts(size_t count) {
  if (parts_count.fetch_add(count) + count <= kPartsMax) return true;
  parts_count.fetch_sub(count);
  return false;
}

}  // namespace

int FileWindow::Create(uint64_t size_bytes, std::shared_ptr<FileWindow>* out) {
  if (size_bytes == 0 || size_bytes % kPageBytes != 0 || size_bytes > UINT64_MAX / 2)
    return -EINVAL;
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* room = mmap(nullptr, size_bytes + kAlignBytes, PROT_NONE, kFlags, -1, 0);
  if (room == MAP_FAILED) return -errno;
  const auto start = reinterpret_cast<uintptr_t>(room);
  const uintptr_t aligned = (start + kAlignBytes - 1) / kAlignBytes * kAlignBytes;
  auto* host = static_cast<std::byte*>(room) + (aligned - start);
  if (aligned > start) munmap(room, aligned - start);
  if (start + kAlignBytes > aligned) munmap(host + size_bytes, start + kAlignBytes - aligned);
  madvise(host, size_bytes, MADV_DONTFORK);
  *out = std::shared_ptr<FileWindow>(new FileWindow(host, size_bytes));
  return 0;
}

FileWindow::~FileWindow() {
  munmap(host_, size_bytes_);
  parts_count.fetch_sub(parts_.size());
}

int FileWindow::Map(uint64_t offset, uint64_t len, int fd, uint64_t file_offset, bool writable) {
  if (const int rc = Check(offset, len); rc < 0) return rc;
  if (file_offset % kPageBytes != 0 || file_offset > INT64_MAX - len) return -EINVAL;
  struct stat stat;
  if (fstat(fd, &stat) < 0) return -errno;
  if (!S_ISREG(stat.st_mode)) return -ENODEV;  // a device has mappings of its own kind

  const std::lock_guard lock(mutex_);
  const size_t added = 1 + Leftovers(offset, offset + len);
  if (!TakeParts(added)) return -ENOSPC;
  const int access = PROT_READ | (writable ? PROT_WRITE : 0);
  if (mmap(host_ + offset, len, access, MAP_SHARED | MAP_FIXED, fd,
           static_cast<off_t>(file_offset)) == MAP_FAILED) {
    const int error = errno;
    parts_count.fetch_sub(added);
    return -error;
  }
  madvise(host_ + offset, len, MADV_DONTFORK);
  madvise(host_ + offset, len, MADV_DONTDUMP);
  Forget(offset, offset + len);
  parts_.emplace(offset, offset + len);
  return 0;
}

int FileWindow::Unmap(uint64_t offset, uint64_t len) {
  if (const int rc = Check(offset, len); rc < 0) return rc;
  const std::lock_guard lock(mutex_);
  const size_t added = Leftovers(offset, offset + len);
  if (!TakeParts(added)) return -ENOSPC;
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  if (mmap(host_ + offset, len, PROT_NONE, kFlags, -1, 0) == MAP_FAILED) {
    const int error = errno;
    parts_count.fetch_sub(added);
    return -error;
  }
  Forget(offset, offset + len);
  return 0;
}

int FileWindow::Sync(uint64_t offset, uint64_t len) const {
  if (const int rc = Check(offset, len); rc < 0) return rc;
  return msync(host_ + offset, len, MS_SYNC) < 0 ? -errno : 0;
}

int FileWindow::Check(uint64_t offset, uint64_t len) const {
  if (len == 0 || offset % kPageBytes != 0 || len % kPageBytes != 0) return -EINVAL;
  return offset > size_bytes_ || len > size_bytes_ - offset ? -ERANGE : 0;
}

/// How many parts more there will be of those that reach into the range: one cut in two is one.
size_t FileWindow::Leftovers(uint64_t start, uint64_t end) const {
  const auto next = parts_.lower_bound(start);
  return next != parts_.begin() && std::prev(next)->second > end ? 1 : 0;
}

/// What the range hides of the parts. TakeParts has had `Leftovers` of them.
void FileWindow::Forget(uint64_t start, uint64_t end) {
  auto at = parts_.lower_bound(start);
  if (at != parts_.begin()) {
    auto& [_, before_end] = *std::prev(at);
    if (before_end > end) at = parts_.emplace(end, before_end).first;
    if (before_end > start) before_end = start;
  }
  while (at != parts_.end() && at->first < end) {
    const uint64_t at_end = at->second;
    at = parts_.erase(at);
    if (at_end > end)
      at = parts_.emplace(end, at_end).first;
    else
      parts_count.fetch_sub(1);
  }
}

}  // namespace vmm
