#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "../base/event_fd.h"
#include "../base/fd.h"

namespace vmm {

/// What an MSI-X table entry has the device write, and where.
struct MsiMessage {
  uint32_t address_low;
  uint32_t address_high;
  uint32_t data;
  bool operator==(const MsiMessage&) const = default;
};

/// The message-signalled interrupts of one VM, each an irqfd on a GSI of its own.
///
/// One that is masked has no irqfd: signals wait in its EventFd, and KVM finds them there when it
/// is unmasked. Linux masks, moves and unmasks a vector with each change of its affinity, so
/// nothing is asked of KVM that it knows already: each question waits until no vCPU looks at what
/// was, which takes milliseconds where guests are slow. So a worker may ask, and all new messages
/// are told of at once, with the first vector that needs one. Of one GSI, calls come one after
/// another, on any thread; methods return 0 or a negative errno.
class MsiRoutes {
 public:
  /// Holds the VM's descriptor: a Remove may outlive the Vm.
  explicit MsiRoutes(std::shared_ptr<const Fd> vm) : vm_(std::move(vm)) {}

  /// A GSI for `event`, masked and without a message; -ENOSPC if KVM has no more.
  int Add(std::shared_ptr<EventFd> event);
  /// What it sends, from the next time on that it is unmasked, or asked to be. Does not wait.
  void Route(uint32_t gsi, const MsiMessage& message);
  /// Whether there is anything for Mask to do, which may wait. Does not wait.
  bool Changes(uint32_t gsi, bool masked);
  int Mask(uint32_t gsi, bool masked);
  /// Once. Nobody gets the GSI before, and when it returns, no signal of its event leads to the
  /// guest any more. May wait.
  void Remove(uint32_t gsi);

 private:
  struct Msi {
    std::shared_ptr<EventFd> event;
    std::optional<MsiMessage> message;  // as the guest has it
    std::optional<MsiMessage> known;    // to KVM
    bool masked = true;
  };

  Msi* Find(uint32_t gsi);
  bool IsKnown(const Msi& msi);
  int TellKvm(const Msi& msi);
  int SetRouting(const Msi* only);
  int SetIrqfd(uint32_t gsi, const EventFd& event, bool assigned) const;

  const std::shared_ptr<const Fd> vm_;
  std::mutex asking_;  // held while KVM is asked for routes: the last table must be the newest
  std::mutex mutex_;   // guards the rest, but for events; held for a moment only
  std::map<uint32_t, Msi> msis_;  // by GSI
};

}  // namespace vmm
