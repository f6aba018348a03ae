/// Message-signalled interrupts of a real KVM, at a local APIC that takes them in and runs nothing.
#include "../../native/kvm/msi.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <set>
#include <thread>

#include "../../native/kvm/abi.h"
#include "../../native/kvm/spare_vm.h"
#include "check.h"

namespace {

using vmm::EventFd;
using vmm::Fd;
using vmm::MsiMessage;
using vmm::MsiRoutes;

using Vectors = std::set<uint32_t>;

// Registers of the local APIC, Intel SDM 3A §11.4.1.
constexpr size_t kSpurious = 0xf0, kRequested = 0x200;
constexpr uint32_t kEnabled = 1 << 8;

MsiMessage To(uint32_t vector) { return {0xfee00000, 0, vector}; }

class Machine {
 public:
  Machine() {
    vmm::VmFds fds;
    CHECK(vmm::SpareVm().Take(&fds).ok());
    vm_ = std::make_shared<const Fd>(std::move(fds.vm));
    vcpu_ = Fd(ioctl(vm_->get(), KVM_CREATE_VCPU, 0));
    CHECK(vcpu_.ok());
    Clear();
  }

  int vm() const { return vm_->get(); }
  std::shared_ptr<MsiRoutes> Routes() const { return std::make_shared<MsiRoutes>(vm_); }

  /// The APIC is as after a reset, and takes interrupts in.
  void Clear() const {
    kvm_lapic_state apic = State();
    std::memset(apic.regs + kRequested, 0, 8 * 16);
    const uint32_t enabled = kEnabled | 0xff;
    std::memcpy(apic.regs + kSpurious, &enabled, sizeof(enabled));
    CHECK(ioctl(vcpu_.get(), KVM_SET_LAPIC, &apic) == 0);
  }

  /// Which interrupts have come since.
  Vectors Came() const {
    const kvm_lapic_state apic = State();
    Vectors came;
    for (uint32_t vector = 0; vector < 256; ++vector)
      if (apic.regs[kRequested + vector / 32 * 16 + vector % 32 / 8] >> vector % 8 & 1)
        came.insert(vector);
    return came;
  }

  /// They come at once, or a worker of the kernel brings them.
  void Expect(const Vectors& vectors) const {
    for (int tries = 0; tries < 5000 && Came() != vectors; ++tries) usleep(1000);
    CHECK(Came() == vectors);
  }

 private:
  kvm_lapic_state State() const {
    kvm_lapic_state apic{};
    CHECK(ioctl(vcpu_.get(), KVM_GET_LAPIC, &apic) == 0);
    return apic;
  }

  std::shared_ptr<const Fd> vm_;
  Fd vcpu_;
};

struct Interrupt {
  std::shared_ptr<EventFd> event = std::make_shared<EventFd>();
  uint32_t gsi;
};

Interrupt Open(MsiRoutes* routes, uint32_t vector) {
  Interrupt made;
  const int gsi = routes->Add(made.event);
  CHECK(gsi >= 0);
  made.gsi = static_cast<uint32_t>(gsi);
  routes->Route(made.gsi, To(vector));
  return made;
}

/// While one is removed on another thread, others are signalled, come, move and are masked.
void RemoveBesideOthers() {
  Machine machine;
  const auto routes = machine.Routes();
  const Interrupt other = Open(routes.get(), 0x42);
  CHECK(routes->Mask(other.gsi, false) == 0);
  for (int round = 0; round < 100; ++round) {
    const Interrupt gone = Open(routes.get(), 0x41);
    CHECK(routes->Mask(gone.gsi, false) == 0);
    machine.Clear();

    const Interrupt come = Open(routes.get(), 0x43);
    std::thread worker([&] { routes->Remove(gone.gsi); });
    routes->Route(other.gsi, To(0x44));
    CHECK(routes->Mask(other.gsi, false) == 0);
    other.event->Signal();
    CHECK(routes->Mask(other.gsi, true) == 0);
    machine.Expect({0x44});
    other.event->Signal();
    routes->Route(other.gsi, To(0x42));
    CHECK(routes->Mask(come.gsi, false) == 0);
    come.event->Signal();
    CHECK(routes->Mask(other.gsi, false) == 0);
    worker.join();
    gone.event->Signal();

    machine.Expect({0x42, 0x43, 0x44});
    // Whoever gets its GSI hears nothing of what signals it still.
    const Interrupt next = Open(routes.get(), 0x45);
    CHECK(next.gsi == gone.gsi);
    CHECK(routes->Mask(next.gsi, false) == 0);
    gone.event->Signal();
    machine.Expect({0x42, 0x43, 0x44});
    routes->Remove(next.gsi);
    routes->Remove(come.gsi);
  }
}

/// Messages of vectors that are masked are told to KVM with another's, and nothing is sent by that.
void TellTogether() {
  Machine machine;
  const auto routes = machine.Routes();
  const Interrupt first = Open(routes.get(), 0x51);
  const Interrupt second = Open(routes.get(), 0x52);
  second.event->Signal();
  CHECK(routes->Mask(first.gsi, false) == 0);
  first.event->Signal();
  machine.Expect({0x51});

  // KVM is asked for no routes any more: it would refuse.
  vmm::abi::RoutingHeader none{};
  CHECK(ioctl(machine.vm(), vmm::abi::kSetGsiRouting, &none) == 0);
  CHECK(routes->Mask(second.gsi, false) == 0);
  usleep(1000);
  CHECK(machine.Came() == Vectors{0x51});

  // One whose message changes meanwhile sends the new one.
  CHECK(routes->Mask(second.gsi, true) == 0);
  routes->Route(second.gsi, To(0x53));
  second.event->Signal();
  CHECK(routes->Mask(second.gsi, false) == 0);
  machine.Expect({0x51, 0x53});
}

/// With APIC ids of 32 bits, KVM refuses the lower half of an address' upper bits.
void RefusedMessage() {
  Machine machine;
  kvm_enable_cap wide{};
  wide.cap = KVM_CAP_X2APIC_API;
  wide.args[0] = KVM_X2APIC_API_USE_32BIT_IDS;
  CHECK(ioctl(machine.vm(), KVM_ENABLE_CAP, &wide) == 0);
  const auto routes = machine.Routes();
  const Interrupt bad = Open(routes.get(), 0x61);
  const Interrupt good = Open(routes.get(), 0x62);
  routes->Route(bad.gsi, {0xfee00000, 1, 0x61});

  CHECK(routes->Mask(bad.gsi, false) == -EINVAL);
  CHECK(routes->Mask(good.gsi, false) == 0);
  good.event->Signal();
  bad.event->Signal();

  machine.Expect({0x62});
  routes->Route(bad.gsi, To(0x61));
  CHECK(routes->Mask(bad.gsi, false) == 0);
  machine.Expect({0x61, 0x62});
}

}  // namespace

int main() {
  Test("one goes on another thread, and no signal is lost or led astray", RemoveBesideOthers);
  Test("messages are told to KVM together", TellTogether);
  Test("a message that KVM refuses keeps nobody else waiting", RefusedMessage);
}
