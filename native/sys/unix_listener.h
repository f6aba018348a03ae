#pragma once
#include <string>

#include "../base/fd.h"
#include "../base/status.h"

namespace vmm {

/// Listens on a Unix stream socket, non-blocking. EADDRINUSE if anything lies at `path`, whatever
/// it is: the caller may not remove what it has not made.
[[nodiscard]] Status ListenUnix(const std::string& path, Fd* listener);

/// The same, but a socket that nobody listens on any more, as one that was killed leaves it, gives
/// way. Two that do this at a time may both be told that it worked; then the last one has it.
[[nodiscard]] Status ListenUnixAnew(const std::string& path, Fd* listener);

/// Makes a socket that already listens ours: non-blocking and closed on exec. EINVAL if it does not
/// listen; then it stays whose it was.
[[nodiscard]] Status AdoptListener(int fd, Fd* listener);

/// The next client in the queue, non-blocking; -EAGAIN if there is none. -EMFILE and the like leave
/// it there, and the listener readable: who polls must wait with something else.
[[nodiscard]] int AcceptClient(const Fd& listener, Fd* client);

}  // namespace vmm
