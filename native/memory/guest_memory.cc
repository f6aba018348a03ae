#include "guest_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <climits>
#include <utility>

#include "../base/bounded_list.h"

namespace vmm {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kGpaEnd = uint64_t{1} << 52;  // the widest physical address that x86 has
/// More ranges than a machine ever has: two around the hole, one a hotplug slot or zone.
constexpr size_t kPiecesMax = 64;
using Pieces = BoundedList<iovec, kPiecesMax>;

/// Guest and host addresses agree up to this, so that huge pages of one are those of the other.
constexpr uint64_t kAlignBytes = uint64_t{2} << 20;

/// `-errno` or a file descriptor, for a region that others are to map.
int CreateMemfd(const RegionOptions& options) {
  const int huge =
      options.huge_page_bytes == 0
          ? 0
          : static_cast<int>(
                MFD_HUGETLB |
                static_cast<unsigned>(std::countr_zero(options.huge_page_bytes) << MFD_HUGE_SHIFT));
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  Fd memfd(memfd_create("guest-ram", kFlags | static_cast<unsigned>(huge)));
  if (!memfd.ok() || ftruncate(memfd.get(), static_cast<off_t>(options.size_bytes)) < 0)
    return -errno;
  // Whom it is handed to could cut it short, and the next access of ours would end the process.
  if (fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) return -errno;
  return memfd.Release();
}

int MapFlags(const RegionOptions& options, bool file) {
  const int of_file = options.private_copy ? MAP_PRIVATE : MAP_SHARED;
  int flags = MAP_FIXED | (file ? of_file : MAP_PRIVATE | MAP_ANONYMOUS);
  // Huge pages that are not set aside now may be missing later, and then the guest dies.
  if (!options.reserve && options.huge_page_bytes == 0) flags |= MAP_NORESERVE;
  if (!file && options.huge_page_bytes != 0)
    flags |= MAP_HUGETLB | (std::countr_zero(options.huge_page_bytes) << MAP_HUGE_SHIFT);
  return flags;
}

/// As many NUMA nodes as any x86 kernel knows.
constexpr size_t kHostNodesMax = 1024;

/// Has the pages come from one node of the host, or not at all. 0 or -errno.
int BindToNode(void* host, const RegionOptions& options) {
  if (options.host_node < 0) return 0;
  const auto node = static_cast<size_t>(options.host_node);
  if (node >= kHostNodesMax) return -EINVAL;
  constexpr size_t kWordBits = sizeof(unsigned long) * CHAR_BIT;
  std::array<unsigned long, kHostNodesMax / kWordBits> nodes{};
  nodes[node / kWordBits] = 1UL << (node % kWordBits);
  constexpr size_t kLookedAt = kHostNodesMax + 1;  // the kernel takes it for one less
  const auto rc =
      syscall(SYS_mbind, host, options.size_bytes, MPOL_BIND, nodes.data(), kLookedAt, 0U);
  return rc < 0 ? -errno : 0;
}

/// What the config asks of the pages; none of it is worth refusing a VM for.
void Advise(void* host, const RegionOptions& options) {
  // A child process has no business in guest RAM, nor has a core dump.
  madvise(host, options.size_bytes, MADV_DONTFORK);
  madvise(host, options.size_bytes, MADV_DONTDUMP);
  if (options.thp) madvise(host, options.size_bytes, MADV_HUGEPAGE);
  if (options.mergeable) madvise(host, options.size_bytes, MADV_MERGEABLE);
}

/// What of the file system the region is a mapping of; none if it is anonymous. 0 or -errno.
int OpenFile(const RegionOptions& options, Fd* file) {
  if (options.fd < 0 && !options.shared) return 0;
  const int fd = options.fd < 0 ? CreateMemfd(options) : fcntl(options.fd, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return options.fd < 0 ? fd : -errno;
  *file = Fd(fd);
  return 0;
}

/// The mapping of one region, of a file or of -1; null with errno set.
std::byte* MapHost(const RegionOptions& options, int fd) {
  // Room for the region and to align it in; what is left over goes back.
  const uint64_t align = std::max(kAlignBytes, options.huge_page_bytes);
  const uint64_t room_bytes = options.size_bytes + align;
  void* room =
      mmap(nullptr, room_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return nullptr;
  const auto start = reinterpret_cast<uintptr_t>(room);
  const uintptr_t aligned = (start + align - 1) / align * align;
  auto* host = static_cast<std::byte*>(room) + (aligned - start);
  if (aligned > start) munmap(room, aligned - start);
  munmap(host + options.size_bytes, start + align - aligned);

  const auto offset = static_cast<off_t>(options.file_offset);
  const int access = PROT_READ | (options.readonly ? 0 : PROT_WRITE);
  if (mmap(host, options.size_bytes, access, MapFlags(options, fd >= 0), fd, offset) ==
      MAP_FAILED) {
    const int error = errno;
    munmap(host, options.size_bytes);
    return errno = error, nullptr;
  }
  if (const int rc = BindToNode(host, options); rc < 0) {
    munmap(host, options.size_bytes);
    return errno = -rc, nullptr;
  }
  Advise(host, options);
  return host;
}

}  // namespace

bool Regions::ReadPieces(uint64_t gpa, void* to, uint64_t len) const {
  Pieces pieces;
  if (!Map(gpa, len, false, &pieces)) return false;
  auto* at = static_cast<std::byte*>(to);
  for (const iovec& piece : pieces) {
    std::memcpy(at, piece.iov_base, piece.iov_len);
    at += piece.iov_len;
  }
  return true;
}

int GuestMemory::Add(const RegionOptions& options) {
  const uint64_t gpa = options.gpa;
  const uint64_t size_bytes = options.size_bytes;
  if (size_bytes == 0 || gpa % kPageBytes != 0 || size_bytes % kPageBytes != 0) return -EINVAL;
  if (gpa >= kGpaEnd || size_bytes > kGpaEnd - gpa) return -EINVAL;
  if (regions_.size() == kPiecesMax) return -ENOSPC;
  for (const Region& other : regions_)
    if (gpa < other.gpa + other.size_bytes && other.gpa < gpa + size_bytes) return -EEXIST;
  Fd file;
  if (const int rc = OpenFile(options, &file); rc < 0) return rc;
  std::byte* host = MapHost(options, file.get());
  if (host == nullptr) return -errno;
  const auto mapping = std::make_shared<Mapping>(host, size_bytes, options.fd >= 0);
  BackedRegion region{{gpa, size_bytes, {mapping, host}, options.readonly}, mapping, {}};
  if (file.ok() && !options.private_copy && !options.readonly) {
    region.file = std::make_shared<const Fd>(std::move(file));
    region.file_offset = options.file_offset;
  }
  if (options.discardable) region.page_bytes = std::max(kPageBytes, options.huge_page_bytes);
  regions_.push_back(std::move(region));
  Publish();
  return 0;
}

std::shared_ptr<Mapping> GuestMemory::Remove(uint64_t gpa) {
  const auto found = std::find_if(regions_.begin(), regions_.end(),
                                  [gpa](const BackedRegion& region) { return region.gpa == gpa; });
  if (found == regions_.end()) return nullptr;
  auto mapping = std::move(found->mapping);
  regions_.erase(found);
  Publish();
  return mapping;
}

int Discard::Run() const {
  if (file == nullptr) return madvise(host.get(), len, MADV_DONTNEED) < 0 ? -errno : 0;
  // Of a file, MADV_DONTNEED would only forget the way there.
  constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  const int rc =
      fallocate(file->get(), kPunch, static_cast<off_t>(file_offset), static_cast<off_t>(len));
  return rc < 0 ? -errno : 0;
}

void GuestMemory::FindDiscards(uint64_t gpa, uint64_t len, std::vector<Discard>* out) const {
  const uint64_t wanted_end = len > kGpaEnd - std::min(gpa, kGpaEnd) ? kGpaEnd : gpa + len;
  for (const BackedRegion& region : regions_) {
    const uint64_t page = region.page_bytes;
    const uint64_t begin = std::max(gpa, region.gpa);
    const uint64_t end = std::min(wanted_end, region.gpa + region.size_bytes);
    if (page == 0 || begin >= end) continue;
    const uint64_t from = (begin - region.gpa + page - 1) / page * page;
    const uint64_t to = (end - region.gpa) / page * page;
    if (from >= to) continue;
    out->push_back({{region.mapping, region.host.get() + from},
                    to - from,
                    region.file,
                    region.file_offset + from});
  }
}

int GuestMemory::Prefault(uint64_t gpa) const {
  const auto regions = Snapshot();
  const auto found = std::find_if(regions->all().begin(), regions->all().end(),
                                  [gpa](const Region& region) { return region.gpa == gpa; });
  if (found == regions->all().end()) return -EINVAL;
  return madvise(found->host.get(), found->size_bytes, MADV_POPULATE_WRITE) < 0 ? -errno : 0;
}

void GuestMemory::Clear() {
  regions_.clear();
  Publish();
}

int GuestMemory::CopyOut(uint64_t gpa, void* to, uint64_t len) const {
  return Snapshot()->ReadPieces(gpa, to, len) ? 0 : -EFAULT;
}

int GuestMemory::CopyIn(uint64_t gpa, const void* from, uint64_t len) const {
  const auto regions = Snapshot();
  Pieces pieces;
  if (!regions->Map(gpa, len, true, &pieces)) return -EFAULT;
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
  if (!regions->Map(gpa, len, true, &pieces)) return -EFAULT;
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
  // Without their files, which must be closed whoever still looks at the bytes.
  auto next =
      std::make_shared<const Regions>(std::vector<Region>(regions_.begin(), regions_.end()));
  const std::lock_guard lock(mutex_);
  snapshot_.swap(next);  // the old one goes after the lock, for it may unmap
}

}  // namespace vmm
