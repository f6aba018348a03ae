#include "vfio.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace vmm {
namespace {

constexpr uint64_t kPageBytes = 4096;
/// BARs, ROM and configuration space, as vfio-pci numbers them.
constexpr uint32_t kRegions = VFIO_PCI_CONFIG_REGION_INDEX + 1;
constexpr uint32_t kIrqs = VFIO_PCI_NUM_IRQS;
/// Far above what any region has to tell.
constexpr uint32_t kInfoBytesMax = 64 * 1024;
/// MSI-X has no more vectors.
constexpr uint32_t kVectorsMax = 2048;

template <class T>
bool CopyAt(const std::byte* bytes, size_t len, size_t offset, T* out) {
  if (offset > len || len - offset < sizeof(T)) return false;
  std::memcpy(out, bytes + offset, sizeof(T));
  return true;
}

bool Fits(const VfioArea& area, uint64_t size_bytes) {
  return area.size_bytes > 0 && area.offset % kPageBytes == 0 &&
         area.size_bytes % kPageBytes == 0 && area.offset <= size_bytes &&
         area.size_bytes <= size_bytes - area.offset;
}

/// The areas of the capability at `offset`, if it tells of such.
bool ParseSparse(const std::byte* info, size_t len, size_t offset, VfioRegion* region) {
  vfio_region_info_cap_sparse_mmap sparse{};
  if (!CopyAt(info, len, offset, &sparse) || sparse.header.id != VFIO_REGION_INFO_CAP_SPARSE_MMAP)
    return false;
  for (uint32_t i = 0; i < sparse.nr_areas; ++i) {
    vfio_region_sparse_mmap_area area{};
    if (!CopyAt(info, len, offset + sizeof(sparse) + i * sizeof(area), &area)) break;
    const VfioArea found{area.offset, area.size};
    if (Fits(found, region->size_bytes)) region->areas.push_back(found);
  }
  return true;
}

void ParseIovaRanges(const std::byte* info, size_t len, size_t offset,
                     std::vector<IovaRange>* ranges) {
  vfio_iommu_type1_info_cap_iova_range said{};
  if (!CopyAt(info, len, offset, &said) || said.header.id != VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE)
    return;
  for (uint32_t i = 0; i < said.nr_iovas; ++i) {
    vfio_iova_range range{};
    if (!CopyAt(info, len, offset + sizeof(said) + i * sizeof(range), &range)) break;
    const bool follows = ranges->empty() || range.start > ranges->back().last;
    if (range.start <= range.end && follows) ranges->push_back({range.start, range.end});
  }
}

/// Calls `visit` with the offset of each capability. Each step leads further on, so there is an
/// end.
template <class Visit>
void WalkCapabilities(const std::byte* info, size_t len, size_t first, const Visit& visit) {
  vfio_info_cap_header cap{};
  for (size_t at = first; at >= sizeof(cap) && CopyAt(info, len, at, &cap);) {
    visit(at);
    if (cap.next <= at) return;
    at = cap.next;
  }
}

}  // namespace

VfioRegion ParseRegion(const std::byte* info, size_t len) {
  vfio_region_info header{};
  VfioRegion region;
  if (!CopyAt(info, len, 0, &header)) return region;
  region.size_bytes = header.size;
  region.file_offset = header.offset;
  if ((header.flags & VFIO_REGION_INFO_FLAG_MMAP) == 0) return region;
  bool is_sparse = false;
  WalkCapabilities(
      info, len, (header.flags & VFIO_REGION_INFO_FLAG_CAPS) != 0 ? header.cap_offset : 0,
      [&](size_t at) { is_sparse = is_sparse || ParseSparse(info, len, at, &region); });
  const VfioArea whole{0, region.size_bytes};
  if (!is_sparse && Fits(whole, region.size_bytes)) region.areas.push_back(whole);
  return region;
}

IommuLimits ParseLimits(const std::byte* info, size_t len) {
  vfio_iommu_type1_info header{};
  IommuLimits limits;
  if (CopyAt(info, len, 0, &header)) {
    if ((header.flags & VFIO_IOMMU_INFO_PGSIZES) != 0) limits.page_sizes = header.iova_pgsizes;
    WalkCapabilities(info, len, (header.flags & VFIO_IOMMU_INFO_CAPS) != 0 ? header.cap_offset : 0,
                     [&](size_t at) { ParseIovaRanges(info, len, at, &limits.ranges); });
  }
  if (limits.ranges.empty()) limits.ranges.push_back({0, UINT64_MAX});
  return limits;
}

Status VfioDevice::Open(std::shared_ptr<VfioContainer> container, const std::string& group,
                        const std::string& name) {
  Fd fd;
  if (Status status = container->Take(group, name, &fd); !status.ok()) return status;
  fd_ = std::move(fd);
  container_ = std::move(container);
  group_ = group;
  name_ = name;
  Status status = Describe();
  if (!status.ok()) Close();
  return status;
}

void VfioDevice::Close() {
  if (container_ == nullptr) return;
  fd_ = Fd();  // before its group, which is free only then
  container_->Release(group_, name_);
  container_ = nullptr;
}

Status VfioDevice::Describe() {
  vfio_device_info device{};
  device.argsz = sizeof(device);
  if (ioctl(fd_.get(), VFIO_DEVICE_GET_INFO, &device) < 0)
    return {errno, "ioctl(VFIO_DEVICE_GET_INFO)"};
  if ((device.flags & VFIO_DEVICE_FLAGS_PCI) == 0 || device.num_regions < kRegions)
    return {ENODEV, "ioctl(VFIO_DEVICE_GET_INFO)"};
  resets_ = (device.flags & VFIO_DEVICE_FLAGS_RESET) != 0;
  for (uint32_t i = 0; i < kRegions; ++i) {
    std::vector<std::byte> bytes(sizeof(vfio_region_info));
    for (int round = 0; round < 2; ++round) {
      vfio_region_info header{};
      header.argsz = static_cast<uint32_t>(bytes.size());
      header.index = i;
      std::memcpy(bytes.data(), &header, sizeof(header));
      if (ioctl(fd_.get(), VFIO_DEVICE_GET_REGION_INFO, bytes.data()) < 0) {
        bytes.assign(sizeof(header), std::byte{0});
        break;
      }
      std::memcpy(&header, bytes.data(), sizeof(header));
      if (header.argsz <= bytes.size() || header.argsz > kInfoBytesMax) break;
      bytes.resize(header.argsz);
    }
    regions_.push_back(ParseRegion(bytes.data(), bytes.size()));
  }
  for (uint32_t i = 0; i < kIrqs; ++i) {
    vfio_irq_info irq{};
    irq.argsz = sizeof(irq);
    irq.index = i;
    const bool known = i < device.num_irqs && ioctl(fd_.get(), VFIO_DEVICE_GET_IRQ_INFO, &irq) == 0;
    const bool by_event = known && (irq.flags & VFIO_IRQ_INFO_EVENTFD) != 0;
    irq_counts_.push_back(by_event ? std::min(irq.count, kVectorsMax) : 0);
  }
  return {};
}

int VfioDevice::Read(uint32_t region, uint64_t offset, uint8_t size_bytes, uint32_t* value) const {
  if (region >= regions_.size() || offset > regions_[region].size_bytes) return -EINVAL;
  const auto at = static_cast<off_t>(regions_[region].file_offset + offset);
  *value = 0;  // little-endian, as the registers are
  const ssize_t got = pread(fd_.get(), value, size_bytes, at);
  if (got < 0) return -errno;
  return got == size_bytes ? 0 : -EIO;
}

int VfioDevice::Write(uint32_t region, uint64_t offset, uint8_t size_bytes, uint32_t value) const {
  if (region >= regions_.size() || offset > regions_[region].size_bytes) return -EINVAL;
  const auto at = static_cast<off_t>(regions_[region].file_offset + offset);
  const ssize_t put = pwrite(fd_.get(), &value, size_bytes, at);
  if (put < 0) return -errno;
  return put == size_bytes ? 0 : -EIO;
}

int VfioDevice::Map(uint32_t region, const VfioArea& area, std::shared_ptr<std::byte>* out) {
  if (region >= regions_.size() || !Fits(area, regions_[region].size_bytes)) return -EINVAL;
  const auto at = static_cast<off_t>(regions_[region].file_offset + area.offset);
  void* host = mmap(nullptr, area.size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), at);
  if (host == MAP_FAILED) return -errno;
  *out = {static_cast<std::byte*>(host),
          [len = area.size_bytes](std::byte* start) { munmap(start, len); }};
  return 0;
}

int VfioDevice::SetIrqs(uint32_t index, const std::vector<int>& event_fds) const {
  return SetIrqFds(index, VFIO_IRQ_SET_ACTION_TRIGGER, event_fds);
}

int VfioDevice::SetUnmask(int event_fd) const {
  return SetIrqFds(VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_UNMASK, {event_fd});
}

int VfioDevice::SetIrqFds(uint32_t index, uint32_t action,
                          const std::vector<int>& event_fds) const {
  if (event_fds.size() > kVectorsMax) return -EINVAL;
  const size_t fds_len = event_fds.size() * sizeof(int32_t);
  std::vector<std::byte> bytes(sizeof(vfio_irq_set) + fds_len);
  vfio_irq_set header{};
  header.argsz = static_cast<uint32_t>(bytes.size());
  header.flags = action | (event_fds.empty() ? VFIO_IRQ_SET_DATA_NONE : VFIO_IRQ_SET_DATA_EVENTFD);
  header.index = index;
  header.count = static_cast<uint32_t>(event_fds.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  if (fds_len > 0) std::memcpy(bytes.data() + sizeof(header), event_fds.data(), fds_len);
  const int rc = ioctl(fd_.get(), VFIO_DEVICE_SET_IRQS, bytes.data());
  if (rc < 0) return -errno;
  return rc == 0 ? 0 : -ENOSPC;  // it has as many as it says, and no more
}

int VfioDevice::Reset() const {
  if (!resets_) return -ENOTTY;
  return ioctl(fd_.get(), VFIO_DEVICE_RESET) < 0 ? -errno : 0;
}

VfioContainer::VfioContainer(Fd fd) : fd_(std::move(fd)), dma_(Iommu()), domain_(Iommu()) {}

DmaIommu VfioContainer::Iommu() const {
  return {[this](const DmaMapping& mapping) { return MapRange(mapping); },
          [this](uint64_t iova, uint64_t size_bytes) { return UnmapRange(iova, size_bytes); }};
}

Status VfioContainer::Open(std::shared_ptr<VfioContainer>* out) {
  Fd fd(open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC));
  if (!fd.ok()) return {errno, "open(/dev/vfio/vfio)"};
  if (ioctl(fd.get(), VFIO_GET_API_VERSION) != VFIO_API_VERSION)
    return {ENOTSUP, "ioctl(VFIO_GET_API_VERSION)"};
  if (ioctl(fd.get(), VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) != 1)
    return {ENOTSUP, "ioctl(VFIO_CHECK_EXTENSION)"};
  out->reset(new VfioContainer(std::move(fd)));
  return {};
}

int VfioContainer::Follow(std::vector<DmaRange> ram) {
  const std::lock_guard lock(mutex_);
  const int rc = domain_.Follow(std::move(ram));
  return rc < 0 || groups_.empty() || !by_ram_ ? rc : dma_.Follow(domain_.ram());
}

int VfioContainer::GoByRam() {
  const std::lock_guard lock(mutex_);
  by_ram_ = true;
  if (groups_.empty()) return 0;
  int rc = domain_.Unmap(0, UINT64_MAX);
  if (rc == 0) rc = dma_.Follow(domain_.ram());
  if (rc < 0) {
    by_ram_ = false;
    dma_.Follow({});
  }
  return rc;
}

int VfioContainer::GoByDomain(const std::vector<IoMapping>& mappings) {
  const std::lock_guard lock(mutex_);
  by_ram_ = false;
  if (groups_.empty()) return 0;
  int rc = dma_.Follow({});
  if (rc == 0) rc = domain_.Unmap(0, UINT64_MAX);
  for (size_t i = 0; i < mappings.size() && rc == 0; ++i) rc = domain_.Map(mappings[i]);
  if (rc < 0) domain_.Unmap(0, UINT64_MAX);
  return rc;
}

int VfioContainer::Map(const IoMapping& mapping) {
  const std::lock_guard lock(mutex_);
  return groups_.empty() || by_ram_ ? 0 : domain_.Map(mapping);
}

int VfioContainer::Unmap(uint64_t first, uint64_t last) {
  const std::lock_guard lock(mutex_);
  return groups_.empty() ? 0 : domain_.Unmap(first, last);
}

uint64_t VfioContainer::left_out_bytes() const {
  const std::lock_guard lock(mutex_);
  return dma_.left_out_bytes();
}

int VfioContainer::GroupFd(const std::string& group) const {
  const std::lock_guard lock(mutex_);
  const auto found = groups_.find(group);
  return found == groups_.end() ? -1 : found->second.fd.get();
}

Status VfioContainer::Take(const std::string& group, const std::string& name, Fd* out) {
  const std::lock_guard lock(mutex_);
  auto found = groups_.find(group);
  if (found == groups_.end()) {
    Group opened;
    if (Status status = Join(group, &opened); !status.ok()) return status;
    found = groups_.emplace(group, std::move(opened)).first;
  }
  auto& devices = found->second.devices;
  const bool taken = std::find(devices.begin(), devices.end(), name) != devices.end();
  Fd fd(taken ? -1 : ioctl(found->second.fd.get(), VFIO_GROUP_GET_DEVICE_FD, name.c_str()));
  if (!fd.ok()) {
    const int error = taken ? EBUSY : errno;
    if (devices.empty()) groups_.erase(found);
    return {error, "ioctl(VFIO_GROUP_GET_DEVICE_FD)"};
  }
  fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
  devices.push_back(name);
  *out = std::move(fd);
  return {};
}

Status VfioContainer::Join(const std::string& path, Group* group) {
  Fd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.ok()) return {errno, "open(VFIO group)"};
  vfio_group_status status{};
  status.argsz = sizeof(status);
  if (ioctl(fd.get(), VFIO_GROUP_GET_STATUS, &status) < 0)
    return {errno, "ioctl(VFIO_GROUP_GET_STATUS)"};
  if ((status.flags & VFIO_GROUP_FLAGS_VIABLE) == 0) return {EPERM, "ioctl(VFIO_GROUP_GET_STATUS)"};
  const int container = fd_.get();
  if (ioctl(fd.get(), VFIO_GROUP_SET_CONTAINER, &container) < 0)
    return {errno, "ioctl(VFIO_GROUP_SET_CONTAINER)"};
  // Without any group Linux forgets of which type it was, and every mapping with it.
  if (groups_.empty()) Forget();
  if (groups_.empty() && ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) < 0)
    return {errno, "ioctl(VFIO_SET_IOMMU)"};
  group->fd = std::move(fd);
  return {};
}

void VfioContainer::Release(const std::string& group, const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto found = groups_.find(group);
  if (found == groups_.end()) return;
  std::erase(found->second.devices, name);
  if (!found->second.devices.empty()) return;
  groups_.erase(found);
  if (groups_.empty()) Forget();
}

void VfioContainer::Forget() {
  dma_.Forget();
  domain_.Forget();
}

int VfioContainer::MapRange(const DmaMapping& mapping) const {
  vfio_iommu_type1_dma_map map{};
  map.argsz = sizeof(map);
  map.flags = (mapping.readable ? VFIO_DMA_MAP_FLAG_READ : 0) |
              (mapping.writable ? VFIO_DMA_MAP_FLAG_WRITE : 0);
  map.vaddr = reinterpret_cast<uint64_t>(mapping.host.get());
  map.iova = mapping.iova;
  map.size = mapping.size_bytes;
  return ioctl(fd_.get(), VFIO_IOMMU_MAP_DMA, &map) < 0 ? -errno : 0;
}

int VfioContainer::UnmapRange(uint64_t iova, uint64_t size_bytes) const {
  vfio_iommu_type1_dma_unmap unmap{};
  unmap.argsz = sizeof(unmap);
  unmap.iova = iova;
  unmap.size = size_bytes;
  return ioctl(fd_.get(), VFIO_IOMMU_UNMAP_DMA, &unmap) < 0 ? -errno : 0;
}

Status VfioContainer::Limits(IommuLimits* out) const {
  std::vector<std::byte> bytes(sizeof(vfio_iommu_type1_info));
  for (;;) {
    vfio_iommu_type1_info header{};
    header.argsz = static_cast<uint32_t>(bytes.size());
    std::memcpy(bytes.data(), &header, sizeof(header));
    if (ioctl(fd_.get(), VFIO_IOMMU_GET_INFO, bytes.data()) < 0)
      return {errno, "ioctl(VFIO_IOMMU_GET_INFO)"};
    std::memcpy(&header, bytes.data(), sizeof(header));
    if (header.argsz <= bytes.size() || header.argsz > kInfoBytesMax) break;
    bytes.resize(header.argsz);
  }
  *out = ParseLimits(bytes.data(), bytes.size());
  return {};
}

}  // namespace vmm
