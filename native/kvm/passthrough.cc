#include "passthrough.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <utility>

#include "memory_slot.h"

namespace vmm {
namespace {

/// A bus of 31 devices with six BARs each of a few parts.
constexpr size_t kBarsMax = 1024;

int SetIrqfd(int vm_fd, kvm_irqfd irqfd) {
  return ioctl(vm_fd, KVM_IRQFD, &irqfd) < 0 ? -errno : 0;
}

}  // namespace

int Passthrough::Map(uint64_t gpa, uint64_t size_bytes, std::shared_ptr<std::byte> host) {
  const auto free = std::find(bars_.begin(), bars_.end(), nullptr);
  const auto number = static_cast<uint32_t>(free - bars_.begin());
  if (number == kBarsMax) return -ENOSPC;
  const int rc = SetMemorySlot(vm_fd_, kBarSlots + number, {gpa, size_bytes, host});
  if (rc < 0) return rc;
  if (free == bars_.end()) bars_.emplace_back();
  bars_[number] = std::move(host);
  return static_cast<int>(number);
}

void Passthrough::Unmap(uint32_t number) {
  if (number >= bars_.size() || bars_[number] == nullptr) return;
  SetMemorySlot(vm_fd_, kBarSlots + number, Region{});
  bars_[number] = nullptr;
}

Status Passthrough::Hold(int group_fd) {
  if (!groups_.ok()) {
    kvm_create_device device{};
    device.type = KVM_DEV_TYPE_VFIO;
    if (ioctl(vm_fd_, KVM_CREATE_DEVICE, &device) < 0) return {errno, "ioctl(KVM_CREATE_DEVICE)"};
    groups_ = Fd(static_cast<int>(device.fd));
  }
  const int rc = SetGroup(KVM_DEV_VFIO_GROUP_ADD, group_fd);
  // A group of several devices is there already.
  return rc == 0 || rc == -EEXIST ? Status{} : Status{-rc, "ioctl(KVM_DEV_VFIO_GROUP_ADD)"};
}

void Passthrough::Drop(int group_fd) {
  if (groups_.ok()) SetGroup(KVM_DEV_VFIO_GROUP_DEL, group_fd);
}

int Passthrough::SetGroup(uint64_t what, int group_fd) const {
  const int32_t fd = group_fd;
  kvm_device_attr attr{};
  attr.group = KVM_DEV_VFIO_GROUP;
  attr.attr = what;
  attr.addr = reinterpret_cast<uint64_t>(&fd);
  return ioctl(groups_.get(), KVM_SET_DEVICE_ATTR, &attr) < 0 ? -errno : 0;
}

int Passthrough::Connect(uint32_t gsi, const EventFd& irq, const EventFd& resample) const {
  if (gsi >= KVM_IOAPIC_NUM_PINS) return -EINVAL;
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<uint32_t>(irq.get());
  irqfd.gsi = gsi;
  irqfd.flags = KVM_IRQFD_FLAG_RESAMPLE;
  irqfd.resamplefd = static_cast<uint32_t>(resample.get());
  return SetIrqfd(vm_fd_, irqfd);
}

void Passthrough::Disconnect(uint32_t gsi, const EventFd& irq) const {
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<uint32_t>(irq.get());
  irqfd.gsi = gsi;
  irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
  SetIrqfd(vm_fd_, irqfd);
}

}  // namespace vmm
