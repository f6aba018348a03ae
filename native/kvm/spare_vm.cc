#include "spare_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <utility>

namespace vmm {
namespace {

constexpr uint64_t kPageBytes = 4096;

/// Adds a slot of one page and takes it away again: those that follow cost next to nothing. That it
/// fails matters to nobody: then the first real slot waits.
void WarmSlots(int vm_fd) {
  constexpr uint64_t kUnusedGpa = 0xf0000000;
  void* page = mmap(nullptr, kPageBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return;
  kvm_userspace_memory_region slot{0, 0, kUnusedGpa, kPageBytes, reinterpret_cast<uint64_t>(page)};
  if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) == 0) {
    slot.memory_size = 0;
    ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &slot);
  }
  munmap(page, kPageBytes);
}

/// KVM watches the address space, and to do so locks all of it unless a signal is pending.
Fd CreateVm(int kvm_fd) {
  int fd;
  do {
    fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
  } while (fd < 0 && errno == EINTR);
  return Fd(fd);
}

Status OpenVm(VmFds* out) {
  out->kvm = Fd(open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!out->kvm.ok()) return {errno, "open(/dev/kvm)"};
  out->vm = CreateVm(out->kvm.get());
  if (!out->vm.ok()) return {errno, "ioctl(KVM_CREATE_VM)"};
  if (ioctl(out->vm.get(), KVM_CREATE_IRQCHIP, 0) < 0) return {errno, "ioctl(KVM_CREATE_IRQCHIP)"};
  return {};
}

}  // namespace

void SpareVm::Prepare() {
  if (std::exchange(made_, true)) return;
  thread_ = Thread("spare", [this] {
    status_ = OpenVm(&fds_);
    if (status_.ok()) WarmSlots(fds_.vm.get());
  });
}

Status SpareVm::Take(VmFds* out) {
  if (!std::exchange(made_, false)) return OpenVm(out);
  thread_.Join();
  *out = std::exchange(fds_, VmFds{});
  // What failed then may do now: a device node that has appeared, a limit that was raised.
  return status_.ok() ? status_ : OpenVm(out);
}

}  // namespace vmm
