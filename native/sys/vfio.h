#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../base/event_fd.h"
#include "../base/fd.h"
#include "../base/status.h"
#include "dma_map.h"

namespace vmm {

/// A part of a region that can be mapped.
struct VfioArea {
  uint64_t offset;
  uint64_t size_bytes;
};

/// Registers of a device: a BAR, or its configuration space. Of 0 bytes if there is none.
struct VfioRegion {
  uint64_t size_bytes = 0;
  uint64_t file_offset = 0;
  std::vector<VfioArea> areas;
};

/// What `struct vfio_region_info` of `len` bytes says; whatever does not fit in is not there.
VfioRegion ParseRegion(const std::byte* info, size_t len);

class VfioContainer;

/// A PCI device of the host's own. Open and Close may take long, as a reset does: any thread but
/// the JS one. The rest is quick. Methods return 0 or a negative errno unless said otherwise.
class VfioDevice {
 public:
  ~VfioDevice() { Close(); }
  VfioDevice() = default;
  VfioDevice(const VfioDevice&) = delete;
  VfioDevice& operator=(const VfioDevice&) = delete;

  /// `group` is the path of its group's file. Linux resets the device if it can.
  Status Open(std::shared_ptr<VfioContainer> container, const std::string& group,
              const std::string& name);
  /// Its registers are no longer reached. Idempotent.
  void Close();
  bool is_open() const { return fd_.ok(); }
  const std::string& group() const { return group_; }
  VfioContainer* container() const { return container_.get(); }

  const std::vector<VfioRegion>& regions() const { return regions_; }
  const std::vector<uint32_t>& irq_counts() const { return irq_counts_; }

  /// An access of 1, 2 or 4 bytes.
  int Read(uint32_t region, uint64_t offset, uint8_t size_bytes, uint32_t* value) const;
  int Write(uint32_t region, uint64_t offset, uint8_t size_bytes, uint32_t value) const;
  /// The host's addresses of an area of it; unmapped when nobody shares it any more.
  int Map(uint32_t region, const VfioArea& area, std::shared_ptr<std::byte>* out);
  /// The interrupts `index` signal these from now on; none of them without any.
  int SetIrqs(uint32_t index, const std::vector<int>& event_fds) const;
  /// What signals that the interrupt line may be raised again.
  int SetUnmask(int event_fd) const;
  int Reset() const;

 private:
  Status Describe();
  int SetIrqFds(uint32_t index, uint32_t action, const std::vector<int>& event_fds) const;

  std::shared_ptr<VfioContainer> container_;
  std::string group_, name_;
  std::vector<VfioRegion> regions_;
  std::vector<uint32_t> irq_counts_;
  bool resets_ = false;
  Fd fd_;
};

/// I/O virtual addresses, both ends included.
struct IovaRange {
  uint64_t first;
  uint64_t last;
};

/// What an IOMMU of the host can map.
struct IommuLimits {
  std::vector<IovaRange> ranges;  // in order; one of everything if the host does not say
  uint64_t page_sizes = 0;        // a bit each
};

/// What `struct vfio_iommu_type1_info` of `len` bytes says; what does not fit in is not there.
IommuLimits ParseLimits(const std::byte* info, size_t len);

/// Devices that reach the same of one guest's memory: all of it, or what a domain of the guest's
/// own IOMMU maps. All methods are any thread's, and may take long but for Map and Unmap of little.
/// They return 0 or a negative errno unless said otherwise.
class VfioContainer : public std::enable_shared_from_this<VfioContainer> {
 public:
  static Status Open(std::shared_ptr<VfioContainer>* out);

  /// The guest's memory is these ranges from now on, in order.
  int Follow(std::vector<DmaRange> ram);
  /// Its devices reach all memory from now on, as at first, or nothing if that fails.
  int GoByRam();
  /// They reach exactly these mappings, or nothing if that fails.
  int GoByDomain(const std::vector<IoMapping>& mappings);
  /// While they go by a domain: it has one more, or those in [first, last] no longer.
  int Map(const IoMapping& mapping);
  int Unmap(uint64_t first, uint64_t last);

  uint64_t left_out_bytes() const;
  /// Once a device is open.
  Status Limits(IommuLimits* out) const;
  /// The file of a group that has a device open, or -1.
  int GroupFd(const std::string& group) const;

 private:
  friend class VfioDevice;
  struct Group {
    Fd fd;
    std::vector<std::string> devices;
  };

  explicit VfioContainer(Fd fd);
  /// A file of the device in `out`.
  Status Take(const std::string& group, const std::string& name, Fd* out);
  void Release(const std::string& group, const std::string& name);
  Status Join(const std::string& path, Group* group);
  DmaIommu Iommu() const;
  int MapRange(const DmaMapping& mapping) const;
  int UnmapRange(uint64_t iova, uint64_t size_bytes) const;
  void Forget();

  const Fd fd_;
  mutable std::mutex mutex_;  // guards what follows, and that calls come one by one
  std::map<std::string, Group> groups_;
  bool by_ram_ = true;
  DmaMap dma_;
  DmaDomain domain_;
};

}  // namespace vmm
