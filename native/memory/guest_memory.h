#pragma once
#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "../base/fd.h"
#include "mapping.h"

namespace vmm {

struct Region {
  uint64_t gpa;
  uint64_t size_bytes;
  std::shared_ptr<std::byte> host;  // who has it may point there
  bool readonly = false;            // mapped so: a write of ours would end the process
};

/// What guest RAM is at one moment; never changed once published. Every access is checked.
class Regions {
 public:
  explicit Regions(std::vector<Region> regions) : regions_(std::move(regions)) {}

  const std::vector<Region>& all() const { return regions_; }

  /// Appends [gpa, gpa + len) to `out`, split at region boundaries, to be read or also to be
  /// written to. False, with `out` in an unspecified state, if any byte is not RAM that allows it.
  template <class IovecList>
  [[nodiscard]] bool Map(uint64_t gpa, uint64_t len, bool writable, IovecList* out) const {
    while (len > 0) {
      const Region* region = Find(gpa);
      if (region == nullptr || (writable && region->readonly)) return false;
      const uint64_t offset = gpa - region->gpa;
      const uint64_t part = std::min(len, region->size_bytes - offset);
      if (!out->push_back({region->host.get() + offset, part})) return false;
      gpa += part;  // cannot wrap: gpa + part <= region end
      len -= part;
    }
    return true;
  }

  /// Copies `*out` from guest RAM, once: whatever the guest does meanwhile, the copy stays as it
  /// is. False, with nothing copied, unless all of it is RAM.
  template <class T>
  [[nodiscard]] bool Read(uint64_t gpa, T* out) const {
    const std::byte* from = Contiguous(gpa, sizeof(T), false);
    if (from == nullptr) return ReadPieces(gpa, out, sizeof(T));
    std::memcpy(out, from, sizeof(T));
    asm volatile("" : "+m"(*out));  // else the compiler may fetch from guest RAM again
    return true;
  }

  /// The host's view of a range that lies in one region, to be read or also to be written to; null
  /// if it does not.
  std::byte* Contiguous(uint64_t gpa, uint64_t len, bool writable) const {
    const Region* region = Find(gpa);
    const bool fits = region != nullptr && len <= region->size_bytes - (gpa - region->gpa) &&
                      !(writable && region->readonly);
    return fits ? region->host.get() + (gpa - region->gpa) : nullptr;
  }

  /// Where a byte lies that Map has handed out.
  uint64_t GpaOf(const void* host) const {
    const auto at = reinterpret_cast<uintptr_t>(host);
    for (const Region& r : regions_) {
      const auto start = reinterpret_cast<uintptr_t>(r.host.get());
      if (at >= start && at - start < r.size_bytes) return r.gpa + (at - start);
    }
    return UINT64_MAX;
  }

  /// The same for any length and across regions.
  [[nodiscard]] bool ReadPieces(uint64_t gpa, void* to, uint64_t len) const;

 private:
  const Region* Find(uint64_t gpa) const {
    for (const Region& r : regions_)
      if (gpa >= r.gpa && gpa - r.gpa < r.size_bytes) return &r;
    return nullptr;
  }

  std::vector<Region> regions_;
};

struct RegionOptions {
  uint64_t gpa;
  uint64_t size_bytes;
  bool shared = false;     // a memfd, which another process can map too
  bool thp = false;        // may be backed by transparent huge pages
  bool mergeable = false;  // may be merged with equal pages of other VMs
  bool reserve = false;    // swap is set aside for all of it now
  /// Backed by huge pages of this size, a power of two; 0 for ordinary ones. All are set aside now.
  uint64_t huge_page_bytes = 0;
  /// Maps this file from `file_offset` on; -1 for none. Borrowed for the call.
  int fd = -1;
  uint64_t file_offset = 0;
  bool private_copy = false;  // of the file: what is written stays here
  bool readonly = false;      // the guest's writes go nowhere
  /// The guest may give its contents back: it is RAM, not a file of somebody's.
  bool discardable = false;
  int host_node = -1;  // pages come from this NUMA node and no other; -1 for any
};

/// A region as its owner knows it.
struct BackedRegion : Region {
  std::shared_ptr<Mapping> mapping;
  /// What another process maps to have the same bytes, from `file_offset` on; null if none can.
  std::shared_ptr<const Fd> file;
  uint64_t file_offset = 0;
  uint64_t page_bytes = 0;  // what can be discarded; 0 if nothing can
};

/// Part of a region whose contents nobody needs any more.
struct Discard {
  std::shared_ptr<std::byte> host;
  uint64_t len;
  std::shared_ptr<const Fd> file;
  uint64_t file_offset;

  /// Gives the pages back to the host: they read as zero afterwards. 0 or a negative errno.
  /// Long: any thread but the JS one.
  int Run() const;
};

/// Guest RAM, which hotplug changes while engines run. Only the JS thread adds and removes.
/// Methods return 0 or a negative errno.
class GuestMemory {
 public:
  /// Whoever uses RAM takes a snapshot and keeps it while it holds pointers: the addresses of a
  /// region removed meanwhile stay mapped until the last snapshot that has it goes.
  std::shared_ptr<const Regions> Snapshot() const {
    const std::lock_guard lock(mutex_);
    return snapshot_;
  }

  /// -EINVAL unless page aligned and within 52 bits, -EEXIST on overlap, or what mmap says.
  int Add(const RegionOptions& options);
  /// Takes out the region that begins at `gpa`: for who looks from now on, it is no RAM. What it
  /// consists of is the caller's to Empty. Null if there is none.
  std::shared_ptr<Mapping> Remove(uint64_t gpa);
  void Clear();
  /// Appends to `out` what of a range can be discarded: whole pages of RAM, and nothing of files
  /// that are somebody's.
  void FindDiscards(uint64_t gpa, uint64_t len, std::vector<Discard>* out) const;
  /// JS thread.
  const std::vector<BackedRegion>& regions() const { return regions_; }

  /// Touches every page of the region that begins at `gpa`, so that no access faults later; -EINVAL
  /// if there is none. Long: any thread but the JS one.
  int Prefault(uint64_t gpa) const;

  /// All of the range is copied, or -EFAULT and none of it.
  int CopyOut(uint64_t gpa, void* to, uint64_t len) const;
  int CopyIn(uint64_t gpa, const void* from, uint64_t len) const;

  /// pread(2) straight into RAM. -ENODATA if the file ends within the range. Any thread.
  int Load(uint64_t gpa, int fd, uint64_t offset, uint64_t len) const;

 private:
  void Publish();

  std::vector<BackedRegion> regions_;
  // Not std::atomic<std::shared_ptr>: its load in libstdc++ 12 unlocks relaxed, which TSan rejects.
  mutable std::mutex mutex_;
  std::shared_ptr<const Regions> snapshot_ = std::make_shared<const Regions>(std::vector<Region>{});
};

}  // namespace vmm
