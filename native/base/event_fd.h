#pragma once
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "clock.h"
#include "fd.h"

namespace vmm {

/// An eventfd: the kick of a queue, or an interrupt on its way to KVM. Shared by whoever signals
/// and whoever waits; all methods are any thread's, and none but Wait blocks.
class EventFd {
 public:
  /// `ok()` tells whether the host had one to give; if not, errno says why.
  EventFd() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  bool ok() const { return fd_.ok(); }
  int get() const { return fd_.get(); }

  /// A full counter already means a signal.
  void Signal() const {
    const uint64_t one = 1;
    const ssize_t written = write(fd_.get(), &one, sizeof(one));
    static_cast<void>(written);
  }
  /// Whether it was signalled since the last Take.
  bool Take() const {
    uint64_t count = 0;
    return read(fd_.get(), &count, sizeof(count)) == sizeof(count);
  }
  /// Sleeps until it is signalled, and takes that. It may also return for no reason.
  void Wait() const { Wait(nullptr); }
  /// The same, no longer than until then, on the steady clock.
  void WaitUntil(int64_t end_ns) const {
    const timespec left = ToTimespec(std::max<int64_t>(end_ns - SteadyNowNs(), 0));
    Wait(&left);
  }
  /// The same two where a hostile process has the descriptor: what it has done to the flags of the
  /// file or to the count cannot make us wait.
  void SignalUntrusted() const {
    pollfd poll_fd{fd_.get(), POLLOUT, 0};
    if (poll(&poll_fd, 1, 0) == 1) Signal();
  }
  bool TakeUntrusted() const {
    uint64_t count = 0;
    const iovec into{&count, sizeof(count)};
    return preadv2(fd_.get(), &into, 1, -1, RWF_NOWAIT) == sizeof(count);
  }
  /// What Take would say, and it stays signalled.
  bool Pending() const {
    pollfd poll_fd{fd_.get(), POLLIN, 0};
    return poll(&poll_fd, 1, 0) == 1;
  }

 private:
  void Wait(const timespec* timeout) const {
    pollfd poll_fd{fd_.get(), POLLIN, 0};
    ppoll(&poll_fd, 1, timeout, nullptr);
    Take();
  }

  Fd fd_;
};

}  // namespace vmm
