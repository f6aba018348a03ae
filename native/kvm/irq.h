#pragma once
#include <cstdint>

#include "../base/fd.h"

namespace vmm {

/// An edge-triggered interrupt line: an eventfd that KVM turns into an edge on one GSI.
class Irq {
 public:
  /// 0 or a negative errno: EINVAL if `gsi` is no pin of the IOAPIC, 0 to 23; else of eventfd(2) or
  /// KVM_IRQFD.
  static int Create(int vm_fd, uint32_t gsi, Irq* out);
  /// Any thread. Never blocks: a full counter already means an interrupt.
  void Trigger() const;

 private:
  Fd event_;
};

}  // namespace vmm
