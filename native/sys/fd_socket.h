#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../base/fd.h"

namespace vmm {

/// A connected Unix stream socket that takes descriptors along with bytes (SCM_RIGHTS, unix(7)).
/// Never blocks. It belongs to one thread, which waits for `fd()` with what it polls with.
class FdSocket {
 public:
  struct Received {
    /// 0 at the end of the stream, -errno on failure; -EAGAIN means that there is nothing yet.
    ssize_t size_bytes = 0;
    /// What came with the bytes, closed on exec; the kernel bounds it at 253 a message.
    std::vector<Fd> fds;
    /// The process had no descriptors left for some that were sent: none of them is here.
    bool fds_lost = false;
  };

  explicit FdSocket(Fd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }

  Received Receive(void* into, size_t capacity_bytes);

  /// Sends what the kernel takes, and keeps the rest for `Flush`: no caller of this sends more
  /// before that is gone. Returns 0 or -errno, after which the socket is of no use.
  [[nodiscard]] int Send(const void* bytes, size_t size_bytes);
  [[nodiscard]] int Flush();
  /// Sends bytes with descriptors, which stay the caller's. Nothing of it is kept: -EAGAIN, with
  /// nothing sent, if the kernel does not take it now.
  [[nodiscard]] int SendWithFds(const void* bytes, size_t size_bytes, std::span<const int> fds);
  bool flushed() const { return unsent_.empty(); }

  /// Nothing more is sent: after what was kept, the peer reads the end of the stream.
  [[nodiscard]] int End();

  /// Both sides have ended.
  bool finished() const { return receive_ended_ && ending_ && flushed(); }
  bool receive_ended() const { return receive_ended_; }

 private:
  Fd fd_;
  std::string unsent_;
  bool receive_ended_ = false;
  bool ending_ = false;
};

}  // namespace vmm
