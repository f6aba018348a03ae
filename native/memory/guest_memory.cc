#include "guest_memory.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../base/bounded_list.h"
#include "../base/fd.h"

namespace vmm {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kGpaEnd = uint64_t{1} << 52;  // the widest physical address that x86 has
/// More ranges than a machine ever has: two around the hole, one a hotplug slot or zone.
constexpr size_t kPiecesMax = 64;
using Pieces = BoundedList<iovec, kPiecesMax>;

/// The mapping of one region; null with errno set.
std::byte* MapHost(const RegionOptions& options) {
  const int prot = PROT_READ | PROT_WRITE;
  void* host = MAP_FAILED;
  if (options.shared) {
    const Fd memfd(memfd_create("guest-ram", MFD_CLOEXEC));
    if (!memfd.ok() || ftruncate(memfd.get(), static_cast<off_t>(options.size_bytes)) < 0)
      return nullptr;
    host = mmap(nullptr, options.size_bytes, prot, MAP_SHARED | MAP_NORESERVE, memfd.get(), 0);
  } else {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    host = mmap(nullptr, options.size_bytes, prot, flags, -1, 0);
  }
  if (host == MAP_FAILED) return nullptr;
  // A child process has no business in guest RAM, nor has a core dump.
  madvise(host, options.size_bytes, MADV_DONTFORK);
  madvise(host, options.size_bytes, MADV_DONTDUMP);
  if (options.thp) madvise(host, options.size_bytes, MADV_HUGEPAGE);
  return static_cast<std::byte*>(host);
}

}  // namespace

int GuestMemory::Add(const RegionOptions& options) {
  const uint64_t gpa = options.gpa;
  const uint64_t size_bytes = options.size_bytes;
  if (size_bytes == 0 || gpa % kPageBytes != 0 || size_bytes % kPageBytes != 0) return -EINVAL;
  if (gpa >= kGpaEnd || size_bytes > kGpaEnd - gpa) return -EINVAL;
  if (regions_.size() == kPiecesMax) return -ENOSPC;
  for (const Region& other : regions_)
    if (gpa < other.gpa + other.size_bytes && other.gpa < gpa + size_bytes) return -EEXIST;
  std::byte* host = MapHost(options);
  if (host == nullptr) return -errno;
  const auto unmap = [size_bytes](std::byte* p) { munmap(p, size_bytes); };
  regions_.push_back({gpa, size_bytes, std::shared_ptr<std::byte>(host, unmap)});
  Publish();
  return 0;
}

void GuestMemory::Clear() {
  regions_.clear();
  Publish();
}

int GuestMemory::CopyOut(uint64_t gpa, void* to, uint64_t len) const {
  const auto regions = Snapshot();
  Pieces pieces;
  if (!regions->Map(gpa, len, &pieces)) return -EFAULT;
  auto* at = static_cast<std::byte*>(to);
  for (const iovec& piece : pieces) {
    std::memcpy(at, piece.iov_base, piece.iov_len);
    at += piece.iov_len;
  }
  return 0;
}

int GuestMemory::CopyIn(uint64_t gpa, const void* from, uint64_t len) const {
  const auto regions = Snapshot();
  Pieces pieces;
  if (!regions->Map(gpa, len, &pieces)) return -EFAULT;
  const auto* at = static_cast<const std::byte*>(from);
  for (const iovec& piece : pieces) {
    std::memcpy(piece.iov_base, at, piece.iov_len);
    at += piece.iov_len;
  }
  return 0;
}

int GuestMemory::Load(uint64_t gpa, int fd, uint64_t offset, uint64_t len) const {
  const auto regions = Snapshot();
  Pieces pieces;
  if (!regions->Map(gpa, len, &pieces)) return -EFAULT;
  for (const iovec& piece : pieces) {
    auto* at = static_cast<std::byte*>(piece.iov_base);
    for (size_t left = piece.iov_len; left > 0;) {
      const ssize_t got = pread(fd, at, left, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return -errno;
      if (got == 0) return -ENODATA;
      at += got;
      left -= static_cast<size_t>(got);
      offset += static_cast<uint64_t>(got);
    }
  }
  return 0;
}

void GuestMemory::Publish() {
  auto next = std::make_shared<const Regions>(regions_);
  const std::lock_guard lock(mutex_);
  snapshot_.swap(next);  // the old one goes after the lock, for it may unmap
}

}  // namespace vmm
