#pragma once
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <string>

namespace vmm {

/// Fills in the address of a socket at `path`, which is zero before. 0 or a positive errno.
[[nodiscard]] inline int MakeUnixAddress(const std::string& path, sockaddr_un* address) {
  address->sun_family = AF_UNIX;
  // An empty one would be a name that Linux makes up, and one with a zero byte another path.
  if (path.empty() || path.find('\0') != std::string::npos) return EINVAL;
  if (path.size() >= sizeof address->sun_path) return ENAMETOOLONG;
  std::memcpy(address->sun_path, path.data(), path.size());
  return 0;
}

}  // namespace vmm
