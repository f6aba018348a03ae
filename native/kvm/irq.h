#pragma once
#include <cstdint>
#include <memory>
#include <utility>

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

/// A line of level, which stays as it is set: who has it masked meanwhile finds it later. An edge
/// is lost then.
class IrqLine {
 public:
  /// 0, or -EINVAL as of Irq.
  static int Create(std::shared_ptr<const Fd> vm, uint32_t gsi, std::shared_ptr<IrqLine>* out);
  IrqLine(std::shared_ptr<const Fd> vm, uint32_t gsi) : vm_(std::move(vm)), gsi_(gsi) {}
  /// Any thread; does not wait.
  void Set(bool high) const;

 private:
  const std::shared_ptr<const Fd> vm_;
  const uint32_t gsi_;
};

}  // namespace vmm
