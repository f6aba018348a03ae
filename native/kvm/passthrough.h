#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "../base/event_fd.h"
#include "../base/fd.h"
#include "../base/status.h"
#include "../memory/guest_memory.h"

namespace vmm {

/// What KVM has of devices of the host's own: parts of BARs that the guest reaches without an exit,
/// their groups, and their interrupt lines. JS thread only.
class Passthrough {
 public:
  /// `vm_fd` must outlive this.
  explicit Passthrough(int vm_fd) : vm_fd_(vm_fd) {}

  /// The guest finds it there until it is unmapped. A number for that, or a negative errno: -EEXIST
  /// if RAM or the like is there, -ENOSPC if there are too many.
  int Map(uint64_t gpa, uint64_t size_bytes, std::shared_ptr<std::byte> host);
  void Unmap(uint32_t number);

  /// KVM knows of a group of VFIO from its first device on, to its last. `group_fd` is borrowed.
  Status Hold(int group_fd);
  void Drop(int group_fd);

  /// `irq` raises an interrupt line of level, and `resample` is signalled when the guest has
  /// handled that. 0 or a negative errno.
  int Connect(uint32_t gsi, const EventFd& irq, const EventFd& resample) const;
  void Disconnect(uint32_t gsi, const EventFd& irq) const;

 private:
  int SetGroup(uint64_t what, int group_fd) const;

  const int vm_fd_;
  Fd groups_;                                     // KVM's device for them, from the first on
  std::vector<std::shared_ptr<std::byte>> bars_;  // by number; null if free
};

}  // namespace vmm
