#pragma once
#include "../base/fd.h"
#include "../base/status.h"
#include "../base/thread.h"

namespace vmm {

/// A VM of KVM's, with its interrupt controllers and nothing else.
struct VmFds {
  Fd kvm;
  Fd vm;
};

/// Makes a VM ahead of need. The first memory slot of a VM costs milliseconds, in which KVM waits
/// for all its readers; here they pass while JavaScript still starts.
class SpareVm {
 public:
  ~SpareVm() { thread_.Join(); }

  /// JS thread. Starts making one, unless there is one.
  void Prepare();
  /// JS thread. The spare, or a new one if there is none; waits for one in the making.
  Status Take(VmFds* out);

 private:
  bool made_ = false;  // JS thread only: a thread was started for `fds_`
  Thread thread_;      // after its end, the others are the JS thread's
  VmFds fds_;
  Status status_;
};

}  // namespace vmm
