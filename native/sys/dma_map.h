#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "../memory/guest_memory.h"

namespace vmm {

/// Memory that a guest plugs by the block: what is not plugged is no memory of its.
struct DmaBlocks {
  uint64_t gpa = 0;
  uint64_t block_bytes = 0;
  std::vector<uint8_t> plugged;  // a block each
};

/// Guest memory that a device of the host's reaches, as one mapping of the IOMMU.
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

/// Keeps the mappings of an IOMMU what they are to be. One thread at a time.
class DmaMap {
 public:
  /// Both return 0 or a negative errno.
  struct Iommu {
    std::function<int(const DmaRange&)> map;
    std::function<int(uint64_t gpa, uint64_t size_bytes)> unmap;
  };
  explicit DmaMap(Iommu iommu) : iommu_(std::move(iommu)) {}

  /// First takes away what is not wanted, then adds what is missing. 0 or a negative errno; what
  /// was done stays then, and the next call goes on from there. A file that the host does not let
  /// devices reach is left out.
  int Follow(const std::vector<DmaRange>& wanted);
  /// The IOMMU has forgotten all of it.
  void Forget() { mapped_.clear(); }
  uint64_t left_out_bytes() const { return left_out_bytes_; }

 private:
  const Iommu iommu_;
  std::map<uint64_t, DmaRange> mapped_;  // by gpa; its memory stays while a device may reach it
  uint64_t left_out_bytes_ = 0;
};

}  // namespace vmm
