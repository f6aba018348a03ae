#include "unix_listener.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <utility>

namespace vmm {

Status ListenUnix(const std::string& path, Fd* listener) {
  constexpr int kBacklog = 8;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // An empty one would be a name that Linux makes up, and one with a zero byte another path.
  if (path.empty() || path.find('\0') != std::string::npos) return {EINVAL, "bind"};
  if (path.size() >= sizeof address.sun_path) return {ENAMETOOLONG, "bind"};
  std::memcpy(address.sun_path, path.data(), path.size());

  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.ok()) return {errno, "socket"};
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    return {errno, "bind"};
  if (listen(fd.get(), kBacklog) < 0) return {errno, "listen"};
  *listener = std::move(fd);
  return {};
}

}  // namespace vmm
