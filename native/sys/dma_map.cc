#include "dma_map.h"

#include <algorithm>
#include <utility>

namespace vmm {
namespace {

bool Same(const DmaRange& a, const DmaRange& b) {
  return a.gpa == b.gpa && a.size_bytes == b.size_bytes && a.host == b.host;
}

DmaRange PartOf(const DmaRange& range, uint64_t start, uint64_t end) {
  return {start,
          end - start,
          {range.host, range.host.get() + (start - range.gpa)},
          range.readonly,
          range.is_file};
}

/// Appends to `out` a range without what of the blocks is not plugged.
void Split(const DmaRange& range, const DmaBlocks& blocks, std::vector<DmaRange>* out) {
  const uint64_t blocks_end = blocks.gpa + blocks.block_bytes * blocks.plugged.size();
  const uint64_t range_end = range.gpa + range.size_bytes;
  const uint64_t from = std::clamp(blocks.gpa, range.gpa, range_end);
  const uint64_t to = std::clamp(blocks_end, from, range_end);
  if (from == to) return out->push_back(range);
  if (from > range.gpa) out->push_back(PartOf(range, range.gpa, from));
  for (size_t i = 0; i < blocks.plugged.size(); ++i) {
    const uint64_t start = std::clamp(blocks.gpa + i * blocks.block_bytes, from, to);
    const uint64_t end = std::clamp(blocks.gpa + (i + 1) * blocks.block_bytes, from, to);
    if (blocks.plugged[i] != 0 && start < end) out->push_back(PartOf(range, start, end));
  }
  if (to < range_end) out->push_back(PartOf(range, to, range_end));
}

}  // namespace

std::vector<DmaRange> DmaRanges(const std::vector<BackedRegion>& regions,
                                const std::vector<DmaBlocks>& all_blocks) {
  std::vector<DmaRange> ranges;
  ranges.reserve(regions.size());
  for (const BackedRegion& region : regions)
    ranges.push_back(
        {region.gpa, region.size_bytes, region.host, region.readonly, region.page_bytes == 0});
  for (const DmaBlocks& blocks : all_blocks) {
    std::vector<DmaRange> split;
    for (const DmaRange& range : ranges) Split(range, blocks, &split);
    ranges = std::move(split);
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
