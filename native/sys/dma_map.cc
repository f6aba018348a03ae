#include "dma_map.h"

#include <errno.h>

#include <algorithm>
#include <iterator>
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

/// GPAs have 52 bits, so it does not wrap.
uint64_t SizeOf(const IoMapping& mapping) { return mapping.last - mapping.first + 1; }

/// What a mapping consists of. False if part of it is no RAM that it may reach.
bool FindPieces(const IoMapping& mapping, const std::vector<DmaRange>& ram,
                std::vector<DmaMapping>* out) {
  uint64_t gpa = mapping.gpa;
  uint64_t left = SizeOf(mapping);
  auto next = std::upper_bound(ram.begin(), ram.end(), gpa,
                               [](uint64_t at, const DmaRange& range) { return at < range.gpa; });
  if (next == ram.begin()) return false;
  for (auto range = std::prev(next); left > 0; ++range) {
    if (range == ram.end() || gpa < range->gpa || gpa - range->gpa >= range->size_bytes)
      return false;
    if (mapping.writable && range->readonly) return false;
    const uint64_t offset = gpa - range->gpa;
    const uint64_t part = std::min(left, range->size_bytes - offset);
    out->push_back({mapping.first + (gpa - mapping.gpa),
                    part,
                    {range->host, range->host.get() + offset},
                    mapping.readable,
                    mapping.writable});
    gpa += part;
    left -= part;
  }
  return true;
}

bool Same(const std::vector<DmaMapping>& a, const std::vector<DmaMapping>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const DmaMapping& one, const DmaMapping& other) {
                      return one.iova == other.iova && one.size_bytes == other.size_bytes &&
                             one.host == other.host;
                    });
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
    const int rc = iommu_.map({range.gpa, range.size_bytes, range.host, true, !range.readonly});
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

int DmaDomain::Map(const IoMapping& mapping) {
  if (!mapping.readable && !mapping.writable) return 0;
  std::vector<DmaMapping> pieces;
  if (!FindPieces(mapping, ram_, &pieces)) return -EFAULT;
  const uint64_t size_bytes = SizeOf(mapping);
  if (mapped_bytes_ + size_bytes > kTimesMax * ram_bytes_) return -ENOSPC;
  for (size_t done = 0; done < pieces.size(); ++done) {
    const int rc = iommu_.map(pieces[done]);
    if (rc == 0) continue;
    while (done-- > 0) iommu_.unmap(pieces[done].iova, pieces[done].size_bytes);
    return rc;
  }
  mapped_.emplace(mapping.first, Mapped{mapping, std::move(pieces)});
  mapped_bytes_ += size_bytes;
  return 0;
}

int DmaDomain::Unmap(uint64_t first, uint64_t last) {
  for (auto at = mapped_.lower_bound(first);
       at != mapped_.end() && at->second.mapping.last <= last;)
    if (const int rc = Remove(&at); rc < 0) return rc;
  return 0;
}

int DmaDomain::Follow(std::vector<DmaRange> ram) {
  ram_ = std::move(ram);
  ram_bytes_ = 0;
  for (const DmaRange& range : ram_) ram_bytes_ += range.size_bytes;
  for (auto at = mapped_.begin(); at != mapped_.end();) {
    std::vector<DmaMapping> pieces;
    if (FindPieces(at->second.mapping, ram_, &pieces) && Same(pieces, at->second.pieces))
      ++at;
    else if (const int rc = Remove(&at); rc < 0)
      return rc;
  }
  return 0;
}

/// The IOMMU takes no mapping apart, but any number of them together.
int DmaDomain::Remove(ByFirst::iterator* at) {
  const IoMapping& mapping = (*at)->second.mapping;
  const uint64_t size_bytes = SizeOf(mapping);
  if (const int rc = iommu_.unmap(mapping.first, size_bytes); rc < 0) return rc;
  mapped_bytes_ -= size_bytes;
  *at = mapped_.erase(*at);
  return 0;
}

}  // namespace vmm
