#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include "../base/event_fd.h"

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
/// nothing is asked of KVM that it knows already. JS thread only; methods return 0 or a negative
/// errno.
class MsiRoutes {
 public:
  /// `vm_fd` must outlive this.
  explicit MsiRoutes(int vm_fd) : vm_fd_(vm_fd) {}

  /// A GSI for `event`, masked and without a message; -ENOSPC if KVM has no more.
  int Add(std::shared_ptr<EventFd> event);
  int Route(uint32_t gsi, const MsiMessage& message);
  int Mask(uint32_t gsi, bool masked);
  void Remove(uint32_t gsi);

 private:
  struct Msi {
    std::shared_ptr<EventFd> event;
    MsiMessage message{};
    std::optional<MsiMessage> known;  // to KVM
    bool masked = true;
  };

  int TellKvm(Msi* msi);
  int SetRouting() const;
  int SetIrqfd(uint32_t gsi, const EventFd& event, bool assigned) const;

  const int vm_fd_;
  std::map<uint32_t, Msi> msis_;  // by GSI
};

}  // namespace vmm
