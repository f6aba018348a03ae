#include "../../native/sys/vfio.h"

#include <errno.h>
#include <linux/vfio.h>

#include <array>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "../../native/sys/dma_map.h"
#include "check.h"

namespace {

using vmm::BackedRegion;
using vmm::DmaBlocks;
using vmm::DmaDomain;
using vmm::DmaIommu;
using vmm::DmaMap;
using vmm::DmaMapping;
using vmm::DmaRange;
using vmm::DmaRanges;
using vmm::IoMapping;

constexpr uint64_t kBlock = 0x1000;

std::byte bytes[64 * kBlock];

BackedRegion RegionAt(uint64_t gpa, uint64_t size_bytes, bool is_file = false) {
  BackedRegion region{};
  region.gpa = gpa;
  region.size_bytes = size_bytes;
  region.host = {std::shared_ptr<void>(), bytes + gpa};
  region.page_bytes = is_file ? 0 : 4096;
  return region;
}

using Spans = std::vector<std::pair<uint64_t, uint64_t>>;

Spans SpansOf(const std::vector<DmaRange>& ranges) {
  Spans spans;
  for (const DmaRange& range : ranges) {
    CHECK(range.host.get() == bytes + range.gpa);
    spans.emplace_back(range.gpa, range.size_bytes);
  }
  return spans;
}

void OnlyPluggedBlocksAreReached() {
  const std::vector<BackedRegion> regions{RegionAt(8 * kBlock, 4 * kBlock),
                                          RegionAt(0, 4 * kBlock)};
  CHECK((SpansOf(DmaRanges(regions, {})) == Spans{{0, 4 * kBlock}, {8 * kBlock, 4 * kBlock}}));
  const DmaBlocks blocks{8 * kBlock, kBlock, {0, 1, 1, 0}};
  CHECK((SpansOf(DmaRanges(regions, {blocks})) ==
         Spans{{0, 4 * kBlock}, {9 * kBlock, kBlock}, {10 * kBlock, kBlock}}));
  // Blocks across regions that were added one by one, and RAM around them.
  const std::vector<BackedRegion> apart{RegionAt(0, 3 * kBlock), RegionAt(3 * kBlock, 3 * kBlock)};
  CHECK(
      (SpansOf(DmaRanges(apart, {{kBlock, kBlock, {1, 0, 1, 1}}})) == Spans{{0, kBlock},
                                                                            {kBlock, kBlock},
                                                                            {3 * kBlock, kBlock},
                                                                            {4 * kBlock, kBlock},
                                                                            {5 * kBlock, kBlock}}));
  // Two zones of such memory, each with blocks of its own size.
  CHECK(
      (SpansOf(DmaRanges(regions, {{2 * kBlock, kBlock, {0, 1}}, blocks})) ==
       Spans{{0, 2 * kBlock}, {3 * kBlock, kBlock}, {9 * kBlock, kBlock}, {10 * kBlock, kBlock}}));
}

/// An IOMMU that takes no range twice, and none apart.
struct Iommu {
  std::set<std::pair<uint64_t, uint64_t>> mapped;
  std::map<uint64_t, DmaMapping> by_iova;
  uint64_t refused_iova = UINT64_MAX;
  int calls = 0;

  DmaIommu Calls() {
    return {[this](const DmaMapping& mapping) {
              ++calls;
              if (mapping.iova == refused_iova) return -ENOMEM;
              for (const auto& [iova, size_bytes] : mapped)
                if (mapping.iova < iova + size_bytes && iova < mapping.iova + mapping.size_bytes)
                  return -EEXIST;
              mapped.emplace(mapping.iova, mapping.size_bytes);
              DmaMapping seen = mapping;
              seen.host = {std::shared_ptr<void>(), mapping.host.get()};  // shares nothing
              by_iova.insert_or_assign(mapping.iova, seen);
              return 0;
            },
            [this](uint64_t iova, uint64_t size_bytes) {
              ++calls;
              const auto end = iova + size_bytes;
              for (const auto& [at, len] : mapped)
                if (at < end && iova < at + len && (at < iova || at + len > end)) return -EINVAL;
              const auto had = mapped.size();
              std::erase_if(mapped,
                            [&](const auto& one) { return one.first >= iova && one.first < end; });
              std::erase_if(by_iova,
                            [&](const auto& one) { return one.first >= iova && one.first < end; });
              return mapped.size() < had ? 0 : -ENOENT;
            }};
  }
};

void TheIommuFollowsMemory() {
  Iommu iommu;
  DmaMap map(iommu.Calls());
  CHECK(map.Follow(DmaRanges({RegionAt(0, 4 * kBlock)}, {})) == 0);
  CHECK(map.Follow(DmaRanges({RegionAt(0, 4 * kBlock)}, {})) == 0);
  CHECK(iommu.calls == 1);  // what is there is left alone
  CHECK(map.Follow(DmaRanges({RegionAt(0, 4 * kBlock), RegionAt(4 * kBlock, kBlock)}, {})) == 0);
  CHECK(iommu.mapped.size() == 2);
  // Another region in the same place, larger, with the next one swallowed.
  CHECK(map.Follow(DmaRanges({RegionAt(0, 5 * kBlock)}, {})) == 0);
  CHECK((iommu.mapped == std::set<std::pair<uint64_t, uint64_t>>{{0, 5 * kBlock}}));
  // Other memory in the same place, of the same size.
  const int before = iommu.calls;
  BackedRegion other = RegionAt(0, 5 * kBlock);
  other.host = {std::shared_ptr<void>(), bytes + kBlock};
  CHECK(map.Follow(DmaRanges({other}, {})) == 0);
  CHECK(iommu.calls == before + 2);
  CHECK(map.Follow({}) == 0 && iommu.mapped.empty());
}

void MemoryThatIsReachedStays() {
  Iommu iommu;
  DmaMap map(iommu.Calls());
  auto owner = std::make_shared<int>(7);
  BackedRegion region = RegionAt(0, kBlock);
  region.host = {owner, bytes};
  CHECK(map.Follow(DmaRanges({region}, {})) == 0);
  region.host = nullptr;
  CHECK(owner.use_count() == 2);
  CHECK(map.Follow({}) == 0);
  CHECK(owner.use_count() == 1);
}

void WhatIsRefusedIsTold() {
  Iommu iommu;
  DmaMap map(iommu.Calls());
  iommu.refused_iova = 4 * kBlock;
  const std::vector<BackedRegion> ram{RegionAt(0, kBlock), RegionAt(4 * kBlock, kBlock)};
  CHECK(map.Follow(DmaRanges(ram, {})) == -ENOMEM);
  CHECK(iommu.mapped.size() == 1);
  const std::vector<BackedRegion> file{RegionAt(0, kBlock), RegionAt(4 * kBlock, kBlock, true)};
  CHECK(map.Follow(DmaRanges(file, {})) == 0);
  CHECK(map.left_out_bytes() == kBlock);
  iommu.refused_iova = UINT64_MAX;
  CHECK(map.Follow(DmaRanges(ram, {})) == 0);
  CHECK(map.left_out_bytes() == 0 && iommu.mapped.size() == 2);
}

void AnIommuThatForgotIsToldAnew() {
  Iommu iommu;
  DmaMap map(iommu.Calls());
  CHECK(map.Follow(DmaRanges({RegionAt(0, kBlock)}, {})) == 0);
  iommu.mapped.clear();
  map.Forget();
  CHECK(map.Follow(DmaRanges({RegionAt(0, kBlock)}, {})) == 0);
  CHECK(iommu.mapped.size() == 1);
}

/// Two regions that follow each other, a hole, and one that may not be written.
std::vector<DmaRange> Ram() {
  BackedRegion readonly = RegionAt(12 * kBlock, kBlock);
  readonly.readonly = true;
  return DmaRanges({RegionAt(0, 4 * kBlock), RegionAt(4 * kBlock, 4 * kBlock), readonly}, {});
}

/// What the IOMMU maps, each with its place in `bytes`.
std::vector<std::array<uint64_t, 3>> PlacesOf(const Iommu& iommu) {
  std::vector<std::array<uint64_t, 3>> places;
  for (const auto& [iova, mapping] : iommu.by_iova)
    places.push_back({iova / kBlock, mapping.size_bytes / kBlock,
                      static_cast<uint64_t>(mapping.host.get() - bytes) / kBlock});
  return places;
}

IoMapping MappingOf(uint64_t iova, uint64_t blocks, uint64_t gpa, bool readable = true,
                    bool writable = true) {
  return {iova * kBlock, (iova + blocks) * kBlock - 1, gpa * kBlock, readable, writable};
}

void AMappingLiesWhereItsMemoryIs() {
  Iommu iommu;
  DmaDomain domain(iommu.Calls());
  CHECK(domain.Follow(Ram()) == 0);
  CHECK(domain.Map(MappingOf(100, 3, 2)) == 0);  // across two regions
  CHECK(domain.Map(MappingOf(200, 1, 12, true, false)) == 0);
  CHECK(domain.Map(MappingOf(300, 1, 5, false, true)) == 0);
  CHECK(domain.Map(MappingOf(400, 1, 6, false, false)) == 0);  // nothing is reached
  using Places = std::vector<std::array<uint64_t, 3>>;
  CHECK((PlacesOf(iommu) == Places{{100, 2, 2}, {102, 1, 4}, {200, 1, 12}, {300, 1, 5}}));
  CHECK(iommu.by_iova.at(100 * kBlock).readable && iommu.by_iova.at(100 * kBlock).writable);
  CHECK(!iommu.by_iova.at(200 * kBlock).writable && !iommu.by_iova.at(300 * kBlock).readable);
  CHECK(domain.Unmap(100 * kBlock, 300 * kBlock - 1) == 0);
  CHECK((PlacesOf(iommu) == Places{{300, 1, 5}}));
  CHECK(domain.Unmap(0, UINT64_MAX) == 0 && iommu.mapped.empty());
  CHECK(domain.Unmap(0, UINT64_MAX) == 0);
}

void WhatIsNoMemoryIsNotMapped() {
  Iommu iommu;
  DmaDomain domain(iommu.Calls());
  CHECK(domain.Follow(Ram()) == 0);
  CHECK(domain.Map(MappingOf(0, 1, 8)) == -EFAULT);
  CHECK(domain.Map(MappingOf(0, 2, 7)) == -EFAULT);
  CHECK(domain.Map(MappingOf(0, 2, 11)) == -EFAULT);
  CHECK(domain.Map(MappingOf(0, 2, 12, true, false)) == -EFAULT);
  CHECK(domain.Map(MappingOf(0, 1, 12)) == -EFAULT);  // not to be written
  CHECK(domain.Follow(DmaRanges({RegionAt(2 * kBlock, kBlock)}, {})) == 0);
  CHECK(domain.Map(MappingOf(0, 1, 1)) == -EFAULT);
  CHECK(domain.Follow({}) == 0 && domain.Map(MappingOf(0, 1, 0)) == -EFAULT);
  CHECK(iommu.calls == 0);
}

void WhatIsRefusedHalfwayIsTakenBack() {
  Iommu iommu;
  DmaDomain domain(iommu.Calls());
  CHECK(domain.Follow(Ram()) == 0);
  iommu.refused_iova = 102 * kBlock;
  CHECK(domain.Map(MappingOf(100, 3, 2)) == -ENOMEM);
  CHECK(iommu.mapped.empty());
  iommu.refused_iova = UINT64_MAX;
  CHECK(domain.Map(MappingOf(100, 3, 2)) == 0);
}

void AMappingEndsWithItsMemory() {
  Iommu iommu;
  DmaDomain domain(iommu.Calls());
  CHECK(domain.Follow(Ram()) == 0);
  CHECK(domain.Map(MappingOf(100, 2, 1)) == 0);
  CHECK(domain.Map(MappingOf(200, 2, 3)) == 0);
  CHECK(domain.Map(MappingOf(300, 1, 4)) == 0);
  CHECK(domain.Follow(Ram()) == 0 && iommu.mapped.size() == 4);
  CHECK(domain.Follow(DmaRanges({RegionAt(0, 4 * kBlock)}, {})) == 0);
  CHECK(iommu.mapped.size() == 1 && iommu.by_iova.contains(100 * kBlock));
  BackedRegion other = RegionAt(0, 4 * kBlock);  // other memory, in the same place
  other.host = {std::shared_ptr<void>(), bytes + kBlock};
  CHECK(domain.Follow(DmaRanges({other}, {})) == 0);
  CHECK(iommu.mapped.empty());
}

void MemoryIsMappedSoManyTimes() {
  Iommu iommu;
  DmaDomain domain(iommu.Calls());
  CHECK(domain.Follow(DmaRanges({RegionAt(0, 2 * kBlock)}, {})) == 0);
  const uint64_t most = 2 * DmaDomain::kTimesMax;
  for (uint64_t i = 0; i < most; ++i) CHECK(domain.Map(MappingOf(100 + i, 1, i % 2)) == 0);
  CHECK(domain.Map(MappingOf(500, 1, 0)) == -ENOSPC);
  CHECK(iommu.mapped.size() == most);
  CHECK(domain.Unmap(100 * kBlock, 101 * kBlock - 1) == 0);
  CHECK(domain.Map(MappingOf(500, 1, 0)) == 0);
  CHECK(domain.Map(MappingOf(501, 1, 0)) == -ENOSPC);
  domain.Forget();
  iommu.mapped.clear();
  CHECK(domain.Map(MappingOf(501, 1, 0)) == 0);
}

std::string LimitsInfo(uint32_t flags, const std::vector<vfio_iova_range>& ranges) {
  vfio_iommu_type1_info header{};
  header.flags = flags;
  header.iova_pgsizes = 4096;
  header.cap_offset = sizeof(header);
  vfio_iommu_type1_info_cap_iova_range cap{};
  cap.header.id = VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE;
  cap.nr_iovas = static_cast<uint32_t>(ranges.size()) + 1;  // one more than there is room for
  std::string text(reinterpret_cast<const char*>(&header), sizeof(header));
  text.append(reinterpret_cast<const char*>(&cap), sizeof(cap));
  for (const vfio_iova_range& range : ranges)
    text.append(reinterpret_cast<const char*>(&range), sizeof(range));
  return text;
}

vmm::IommuLimits LimitsOf(const std::string& info, size_t cut = 0) {
  return vmm::ParseLimits(reinterpret_cast<const std::byte*>(info.data()), info.size() - cut);
}

void WhatTheHostCanMapIsRead() {
  constexpr uint32_t kAll = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS;
  const auto info = LimitsInfo(kAll, {{0, 0xfff}, {0x800, 0x900}, {9, 8}, {0x2000, UINT64_MAX}});
  const auto limits = LimitsOf(info);
  CHECK(limits.page_sizes == 4096 && limits.ranges.size() == 2);  // in order, none that overlap
  CHECK(limits.ranges[0].last == 0xfff && limits.ranges[1].first == 0x2000);
  for (size_t cut = 0; cut <= info.size(); ++cut) {
    const auto part = LimitsOf(info, cut);
    CHECK(!part.ranges.empty() && part.ranges.size() <= 2);
  }
  const auto silent = LimitsOf(LimitsInfo(0, {{0, 0xfff}}));
  CHECK(silent.page_sizes == 0 && silent.ranges.size() == 1);
  CHECK(silent.ranges[0].first == 0 && silent.ranges[0].last == UINT64_MAX);
}

/// A region of four pages, with what tells of areas behind `caps` other capabilities.
struct Info {
  vfio_region_info header{};
  std::string text;

  explicit Info(uint32_t flags) {
    header.flags = flags;
    header.size = 4 * 4096;
    header.offset = 1 << 20;
  }
  template <class T>
  void Put(const T& value) {
    text.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  vmm::VfioRegion Parse(size_t cut = 0) {
    std::string all(reinterpret_cast<const char*>(&header), sizeof(header));
    all += text;
    return vmm::ParseRegion(reinterpret_cast<const std::byte*>(all.data()), all.size() - cut);
  }
};

constexpr uint32_t kMmap = VFIO_REGION_INFO_FLAG_MMAP;
constexpr uint32_t kCaps = VFIO_REGION_INFO_FLAG_CAPS;

Info Sparse(uint16_t first_next) {
  Info info(kMmap | kCaps);
  info.header.cap_offset = sizeof(vfio_region_info);
  const vfio_info_cap_header other{VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 1, first_next};
  info.Put(other);
  vfio_region_info_cap_sparse_mmap sparse{};
  sparse.header.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP;
  sparse.nr_areas = 4;
  info.Put(sparse);
  info.Put(vfio_region_sparse_mmap_area{0, 4096});
  info.Put(vfio_region_sparse_mmap_area{2 * 4096, 2 * 4096});
  info.Put(vfio_region_sparse_mmap_area{3 * 4096, 2 * 4096});       // beyond the end
  info.Put(vfio_region_sparse_mmap_area{UINT64_MAX - 4095, 8192});  // wraps
  return info;
}

void AreasAreThoseThatLieInTheRegion() {
  CHECK(Info(0).Parse().areas.empty());
  const auto whole = Info(kMmap).Parse();
  CHECK(whole.areas.size() == 1 && whole.areas[0].size_bytes == 4 * 4096);
  CHECK(whole.file_offset == 1 << 20);
  constexpr auto kSecond = sizeof(vfio_region_info) + sizeof(vfio_info_cap_header);
  const auto sparse = Sparse(kSecond).Parse();
  CHECK(sparse.areas.size() == 2 && sparse.areas[1].offset == 2 * 4096);
  // Cut short at any byte, or linked to itself, there is an end, and nothing beyond it is read.
  for (size_t cut = 0; cut < Sparse(kSecond).text.size() + 16; ++cut)
    CHECK(Sparse(kSecond).Parse(cut).areas.size() <= 2);
  CHECK(Sparse(sizeof(vfio_region_info)).Parse().areas.size() == 1);
  Info odd(kMmap);
  odd.header.size = 100;  // less than a page
  CHECK(odd.Parse().areas.empty());
}

void WithoutVfioNothingIsOpened() {
  std::shared_ptr<vmm::VfioContainer> container;
  const vmm::Status status = vmm::VfioContainer::Open(&container);
  CHECK(status.ok() == (container != nullptr));
  vmm::VfioDevice device;
  uint32_t value = 0;
  CHECK(device.Read(0, 0, 4, &value) == -EINVAL);
  CHECK(device.Write(0, 0, 4, 0) == -EINVAL);
  device.Close();
  if (container == nullptr) return;
  CHECK(device.Open(container, "/dev/vfio/none", "0000:00:00.0").error == ENOENT);
  CHECK(!device.is_open());
}

}  // namespace

int main() {
  Test("of memory plugged by the block, devices reach what is plugged",
       OnlyPluggedBlocksAreReached);
  Test("the IOMMU follows memory, range by range", TheIommuFollowsMemory);
  Test("memory that devices reach stays until they no longer do", MemoryThatIsReachedStays);
  Test("RAM that is refused is told of, a file is left out", WhatIsRefusedIsTold);
  Test("an IOMMU that forgot is told anew", AnIommuThatForgotIsToldAnew);
  Test("a mapping lies where its memory is", AMappingLiesWhereItsMemoryIs);
  Test("what is no memory is not mapped", WhatIsNoMemoryIsNotMapped);
  Test("what is refused halfway is taken back", WhatIsRefusedHalfwayIsTakenBack);
  Test("a mapping ends with its memory", AMappingEndsWithItsMemory);
  Test("memory is mapped so many times", MemoryIsMappedSoManyTimes);
  Test("what the host can map is read", WhatTheHostCanMapIsRead);
  Test("areas that can be mapped lie in their region", AreasAreThoseThatLieInTheRegion);
  Test("without VFIO nothing is opened", WithoutVfioNothingIsOpened);
}
