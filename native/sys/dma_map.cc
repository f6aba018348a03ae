#include "dma_map.h"

#include <algorithm>

namespace vmm {
namespace {

bool Same(const DmaRange& a, const DmaRange& b) {
  return a.gpa == b.gpa && a.size_bytes == b.size_bytes && a.host == b.host;
}

DmaRange PartOf(const BackedRegion& region, uint64_t start, uint64_t end) {
  return {start,
          end - start,
          {region.host, region.host.get() + (start - region.gpa)},
          region.readonly,
          region.page_bytes == 0};
}

}  // namespace

std::vector<DmaRange> DmaRanges(const std::vector<BackedRegion>& regions, const DmaBlocks& blocks) {
  const uint64_t blocks_end = blocks.gpa + blocks.block_bytes * blocks.plugged.size();
  std::vector<DmaRange> ranges;
  for (const BackedRegion& region : regions) {
    const uint64_t region_end = region.gpa + region.size_bytes;
    const uint64_t from = std::clamp(blocks.gpa, region.gpa, region_end);
    const uint64_t to = std::clamp(blocks_end, from, region_end);
    if (from == to) {
      ranges.push_back(PartOf(region, region.gpa, region_end));
      continue;
    }
    if (from > region.gpa) ranges.push_back(PartOf(region, region.gpa, from));
    for (size_t i = 0; i < blocks.plugged.size(); ++i) {
      const uint64_t start = std::clamp(blocks.gpa + i * blocks.block_bytes, from, to);
      const uint64_t end = std::clamp(blocks.gpa + (i + 1) * blocks.block_bytes, from, to);
      if (blocks.plugged[i] != 0 && start < end) ranges.push_back(PartOf(region, start, end));
    }
    if (to < region_end) ranges.push_back(PartOf(region, to, region_end));
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const DmaRange& a, const DmaRange& b) { return a.gpa < b.gpa; });
  return ranges;
}

int DmaMap::Follow(const std::vector<DmaRange>& wanted) {
  std::map<uint64_t, const DmaRange*> by_gpa;
  for (const DmaRange& range : wanted) by_gpa[range.gpa] = &range;
  for (auto it = mapped_.begin(); it != mapped_.end();) {
    const auto found = by_gpa.find(it->first);
    if (found != by_gpa.end() && Same(*found->second, it->second)) {
      ++it;
      continue;
    }
    if (const int rc = iommu_.unmap(it->first, it->second.size_bytes); rc < 0) return rc;
    it = mapped_.erase(it);
  }
  left_out_bytes_ = 0;
  for (const DmaRange& range : wanted) {
    if (mapped_.contains(range.gpa)) continue;
    const int rc = iommu_.map(range);
    if (rc == 0) {
      mapped_.emplace(range.gpa, range);
    } else if (range.is_file) {
      left_out_bytes_ += range.size_bytes;
    } else {
      return rc;
    }
  }
  return 0;
}

}  // namespace vmm
