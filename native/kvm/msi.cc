#include "msi.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <utility>
#include <vector>

#include "abi.h"
#include "flexible.h"

namespace vmm {
namespace {

// The lines of the interrupt controllers, each wired to the pin of its number. KVM's own default.
constexpr uint32_t kPicPins = 8, kIoapicPins = 24;
// KVM's limit to the entries of the table, KVM_MAX_IRQ_ROUTES, bounds the messages.
constexpr uint32_t kRoutesMax = 4096;
constexpr uint32_t kGsiFirst = kIoapicPins;
constexpr uint32_t kGsiEnd = kGsiFirst + kRoutesMax - kIoapicPins - 2 * kPicPins;

kvm_irq_routing_entry PinRoute(uint32_t gsi, uint32_t chip, uint32_t pin) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_IRQCHIP;
  entry.u.irqchip = {chip, pin};
  return entry;
}

std::vector<kvm_irq_routing_entry> PinRoutes() {
  std::vector<kvm_irq_routing_entry> routes;
  for (uint32_t pin = 0; pin < kPicPins; ++pin) {
    routes.push_back(PinRoute(pin, KVM_IRQCHIP_PIC_MASTER, pin));
    routes.push_back(PinRoute(kPicPins + pin, KVM_IRQCHIP_PIC_SLAVE, pin));
  }
  for (uint32_t pin = 0; pin < kIoapicPins; ++pin)
    routes.push_back(PinRoute(pin, KVM_IRQCHIP_IOAPIC, pin));
  return routes;
}

kvm_irq_routing_entry MsiRoute(uint32_t gsi, const MsiMessage& message) {
  kvm_irq_routing_entry entry{};
  entry.gsi = gsi;
  entry.type = KVM_IRQ_ROUTING_MSI;
  entry.u.msi.address_lo = message.address_low;
  entry.u.msi.address_hi = message.address_high;
  entry.u.msi.data = message.data;
  return entry;
}

}  // namespace

int MsiRoutes::Add(std::shared_ptr<EventFd> event) {
  const std::lock_guard lock(mutex_);
  uint32_t gsi = kGsiFirst;
  for (const auto& [taken, msi] : msis_) {
    if (taken != gsi) break;
    ++gsi;
  }
  if (gsi == kGsiEnd) return -ENOSPC;
  msis_[gsi].event = std::move(event);
  return static_cast<int>(gsi);
}

MsiRoutes::Msi* MsiRoutes::Find(uint32_t gsi) {
  const std::lock_guard lock(mutex_);
  return &msis_.at(gsi);
}

void MsiRoutes::Route(uint32_t gsi, const MsiMessage& message) {
  const std::lock_guard lock(mutex_);
  msis_.at(gsi).message = message;
}

bool MsiRoutes::Changes(uint32_t gsi, bool masked) {
  const std::lock_guard lock(mutex_);
  const Msi& msi = msis_.at(gsi);
  return msi.masked != masked || (!masked && msi.known != msi.message);
}

int MsiRoutes::Mask(uint32_t gsi, bool masked) {
  if (!Changes(gsi, masked)) return 0;
  Msi* msi = Find(gsi);
  int rc = masked ? 0 : TellKvm(*msi);
  if (rc < 0 || msi->masked == masked) return rc;
  rc = SetIrqfd(gsi, *msi->event, !masked);
  if (rc < 0) return rc;
  // KVM has sent what it found waiting, but has left it there; what comes now it takes itself.
  // Whoever signals may be another process's device.
  if (!masked) msi->event->TakeUntrusted();
  const std::lock_guard lock(mutex_);
  msi->masked = masked;
  return 0;
}

void MsiRoutes::Remove(uint32_t gsi) {
  const Msi* msi = Find(gsi);
  // Its route stays until nothing can take it any more.
  if (!msi->masked) SetIrqfd(gsi, *msi->event, false);
  const std::lock_guard lock(mutex_);
  msis_.erase(gsi);
}

/// Of all that is new. A message that KVM refuses is the guest's own; the table is taken as a whole
/// or not at all, so nobody else is to be kept waiting by it.
int MsiRoutes::TellKvm(const Msi& msi) {
  const std::lock_guard asking(asking_);
  if (IsKnown(msi) || SetRouting(nullptr) == 0) return 0;
  return SetRouting(&msi);
}

bool MsiRoutes::IsKnown(const Msi& msi) {
  const std::lock_guard lock(mutex_);
  return msi.known == msi.message;
}

/// Every message as the guest has it, or that of `only`, and else those that KVM knows.
int MsiRoutes::SetRouting(const Msi* only) {
  std::map<uint32_t, MsiMessage> told;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [gsi, msi] : msis_)
      if (const auto& message = only == nullptr || only == &msi ? msi.message : msi.known)
        told[gsi] = *message;
  }
  std::vector<kvm_irq_routing_entry> routes = PinRoutes();
  for (const auto& [gsi, message] : told) routes.push_back(MsiRoute(gsi, message));
  Flexible table(abi::RoutingHeader{static_cast<uint32_t>(routes.size()), 0}, routes);
  if (ioctl(vm_->get(), abi::kSetGsiRouting, table.get()) < 0) return -errno;
  const std::lock_guard lock(mutex_);
  for (auto& [gsi, msi] : msis_) {
    const auto found = told.find(gsi);
    msi.known = found == told.end() ? std::nullopt : std::optional(found->second);
  }
  return 0;
}

int MsiRoutes::SetIrqfd(uint32_t gsi, const EventFd& event, bool assigned) const {
  kvm_irqfd irqfd{};
  irqfd.fd = static_cast<uint32_t>(event.get());
  irqfd.gsi = gsi;
  irqfd.flags = assigned ? 0 : KVM_IRQFD_FLAG_DEASSIGN;
  return ioctl(vm_->get(), KVM_IRQFD, &irqfd) < 0 ? -errno : 0;
}

}  // namespace vmm
