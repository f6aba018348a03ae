#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "../memory/guest_memory.h"
#include "../memory/io_domain.h"

namespace vmm {

/// Memory that a guest plugs by the block: what is not plugged is no memory of its.
struct DmaBlocks {
  uint64_t gpa = 0;
  uint64_t block_bytes = 0;
  std::vector<uint8_t> plugged;  // a block each
};

/// Guest memory that a device of the host's may reach, which no mapping of the IOMMU exceeds.
struct DmaRange {
  uint64_t gpa;
  uint64_t size_bytes;
  std::shared_ptr<std::byte> host;
  bool readonly;
  bool is_file;  // of somebody: the host may refuse to pin it
};

/// What devices are to reach of the regions, in order: all of them, but of the blocks those alone
/// that are plugged, each as a range of its own, for the IOMMU takes no range apart.
std::vector<DmaRange> DmaRanges(const std::vector<BackedRegion>& regions,
                                const std::vector<DmaBlocks>& all_blocks);

/// One mapping of the IOMMU. Its memory stays while a device may reach it.
struct DmaMapping {
  uint64_t iova;
  uint64_t size_bytes;
  std::shared_ptr<std::byte> host;
  bool readable;
  bool writable;
};

/// What maps and unmaps. Both return 0 or a negative errno.
struct DmaIommu {
  std::function<int(const DmaMapping&)> map;
  std::function<int(uint64_t iova, uint64_t size_bytes)> unmap;
};

/// Has an IOMMU map all memory where the guest has it. One thread at a time.
class DmaMap {
 public:
  explicit DmaMap(DmaIommu iommu) : iommu_(std::move(iommu)) {}

  /// First takes away what is not wanted, then adds what is missing. 0 or a negative errno; what
  /// was done stays then, and the next call goes on from there. A file that the host does not let
  /// devices reach is left out.
  int Follow(const std::vector<DmaRange>& wanted);
  /// The IOMMU has forgotten all of it.
  void Forget() { mapped_.clear(); }
  uint64_t left_out_bytes() const { return left_out_bytes_; }

 private:
  const DmaIommu iommu_;
  std::map<uint64_t, DmaRange> mapped_;  // by gpa; its memory stays while a device may reach it
  uint64_t left_out_bytes_ = 0;
};

/// Has an IOMMU map what a guest's driver maps, at I/O virtual addresses. One thread at a time.
class DmaDomain {
 public:
  explicit DmaDomain(DmaIommu iommu) : iommu_(std::move(iommu)) {}

  /// So many times may the memory there is be mapped: tables of the IOMMU are the host's memory.
  static constexpr uint64_t kTimesMax = 8;

  /// All of a mapping or, with a negative errno, nothing of it: -EFAULT if part of it is no RAM
  /// that may be reached so, -ENOSPC if there are too many. Without a direction nothing is reached.
  int Map(const IoMapping& mapping);
  /// Takes away what lies in [first, last]. 0 or a negative errno.
  int Unmap(uint64_t first, uint64_t last);
  /// RAM is these ranges from now on, in order: takes away what is there no more. 0 or a negative
  /// errno.
  int Follow(std::vector<DmaRange> ram);
  /// The IOMMU has forgotten all of it.
  void Forget() {
    mapped_.clear();
    mapped_bytes_ = 0;
  }
  const std::vector<DmaRange>& ram() const { return ram_; }

 private:
  struct Mapped {
    IoMapping mapping;
    std::vector<DmaMapping> pieces;
  };
  using ByFirst = std::map<uint64_t, Mapped>;

  int Remove(ByFirst::iterator* at);

  const DmaIommu iommu_;
  std::vector<DmaRange> ram_;
  uint64_t ram_bytes_ = 0;
  ByFirst mapped_;
  uint64_t mapped_bytes_ = 0;
};

}  // namespace vmm
