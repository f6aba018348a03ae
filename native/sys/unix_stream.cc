#include "unix_stream.h"

#include <errno.h>
#include <sys/socket.h>

#include <array>
#include <utility>

#include "unix_address.h"

namespace vmm {

Status ConnectUnix(const std::string& path, Fd* stream) {
  sockaddr_un address{};
  if (const int error = MakeUnixAddress(path, &address); error != 0) return {error, "connect"};
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.ok()) return {errno, "socket"};
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    return {errno, "connect"};
  *stream = std::move(fd);
  return {};
}

Status PairUnix(Fd* ours, Fd* theirs) {
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) < 0)
    return {errno, "socketpair"};
  *ours = Fd(ends[0]);
  *theirs = Fd(ends[1]);
  return {};
}

}  // namespace vmm
