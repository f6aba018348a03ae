#include "unix_listener.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "unix_address.h"

namespace vmm {

namespace {

bool IsSocket(const std::string& path) {
  struct stat status {};
  return lstat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode);
}

/// Whether nobody listens there. A full queue means that somebody does.
bool IsStale(const sockaddr_un& address) {
  const Fd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  return probe.ok() &&
         connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0 &&
         errno == ECONNREFUSED;
}

}  // namespace

Status ListenUnixAnew(const std::string& path, Fd* listener) {
  const Status status = ListenUnix(path, listener);
  sockaddr_un address{};
  if (status.error != EADDRINUSE || MakeUnixAddress(path, &address) != 0 || !IsSocket(path) ||
      !IsStale(address))
    return status;
  if (unlink(path.c_str()) < 0) return {errno, "unlink"};
  return ListenUnix(path, listener);
}

Status ListenUnix(const std::string& path, Fd* listener) {
  sockaddr_un address{};
  if (const int error = MakeUnixAddress(path, &address); error != 0) return {error, "bind"};

  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.ok()) return {errno, "socket"};
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    return {errno, "bind"};
  if (listen(fd.get(), SOMAXCONN) < 0) return {errno, "listen"};
  *listener = std::move(fd);
  return {};
}

Status AdoptListener(int fd, Fd* listener) {
  int listening = 0;
  socklen_t size = sizeof listening;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0)
    return {errno, "getsockopt(SO_ACCEPTCONN)"};
  if (!listening) return {EINVAL, "getsockopt(SO_ACCEPTCONN)"};
  if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) return {errno, "fcntl(F_SETFL)"};
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) return {errno, "fcntl(F_SETFD)"};
  *listener = Fd(fd);
  return {};
}

int AcceptClient(const Fd& listener, Fd* client) {
  const int fd = accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) {
    *client = Fd(fd);
    return 0;
  }
  return errno == EINTR || errno == ECONNABORTED ? -EAGAIN : -errno;
}

}  // namespace vmm
