#include "irq.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include <utility>

namespace vmm {
namespace {

/// Of the IOAPIC, and the GSIs that KVM routes from the start. It takes others, and drops them.
constexpr uint32_t kPins = KVM_IOAPIC_NUM_PINS;

}  // namespace

int Irq::Create(int vm_fd, uint32_t gsi, Irq* out) {
  if (gsi >= kPins) return -EINVAL;
  Fd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.ok()) return -errno;
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<uint32_t>(event.get());
  irqfd.gsi = gsi;
  if (ioctl(vm_fd, KVM_IRQFD, &irqfd) < 0) return -errno;
  out->event_ = std::move(event);
  return 0;
}

void Irq::Trigger() const {
  const uint64_t one = 1;
  const ssize_t written = write(event_.get(), &one, sizeof(one));
  static_cast<void>(written);
}

int IrqLine::Create(std::shared_ptr<const Fd> vm, uint32_t gsi, std::shared_ptr<IrqLine>* out) {
  if (gsi >= kPins) return -EINVAL;
  *out = std::make_shared<IrqLine>(std::move(vm), gsi);
  return 0;
}

void IrqLine::Set(bool high) const {
  kvm_irq_level line{};
  line.irq = gsi_;
  line.level = high ? 1 : 0;
  ioctl(vm_->get(), KVM_IRQ_LINE, &line);  // there is such a pin, and nothing else to refuse
}

}  // namespace vmm
