#include "fd_socket.h"

#include <errno.h>
#include <sys/socket.h>

#include <cstring>

namespace vmm {
namespace {

/// SCM_MAX_FD of the kernel.
constexpr size_t kMessageFdsMax = 253;

/// Takes the descriptors out of what recvmsg(2) has filled in. Whatever else a listener that was
/// handed to us has switched on, as credentials, is passed over.
void TakeFds(msghdr* message, std::vector<Fd>* fds) {
  for (cmsghdr* part = CMSG_FIRSTHDR(message); part != nullptr; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      fds->emplace_back(fd);
    }
  }
}

bool IsTransient(int error) { return error == EAGAIN || error == EINTR; }

}  // namespace

FdSocket::Received FdSocket::Receive(void* into, size_t capacity_bytes) {
  alignas(cmsghdr) char control[CMSG_SPACE(kMessageFdsMax * sizeof(int))];
  iovec bytes{into, capacity_bytes};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;

  Received received;
  received.size_bytes = recvmsg(fd_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (received.size_bytes < 0) {
    received.size_bytes = IsTransient(errno) ? -EAGAIN : -errno;
    return received;
  }
  receive_ended_ = received.size_bytes == 0;
  TakeFds(&message, &received.fds);
  received.fds_lost = (message.msg_flags & MSG_CTRUNC) != 0;
  if (received.fds_lost) received.fds.clear();
  return received;
}

int FdSocket::Send(const void* bytes, size_t size_bytes) {
  const bool first = flushed();
  unsent_.append(static_cast<const char*>(bytes), size_bytes);
  return first ? Flush() : 0;
}

int FdSocket::SendWithFds(const void* bytes, size_t size_bytes, std::span<const int> fds) {
  alignas(cmsghdr) char control[CMSG_SPACE(kMessageFdsMax * sizeof(int))] = {};
  if (!flushed()) return -EAGAIN;
  if (fds.size() > kMessageFdsMax) return -EINVAL;
  iovec piece{const_cast<void*>(bytes), size_bytes};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(fds.size_bytes());
  cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(fds.size_bytes());
  std::memcpy(CMSG_DATA(part), fds.data(), fds.size_bytes());
  const ssize_t sent = sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0) return IsTransient(errno) ? -EAGAIN : -errno;
  // A short message is one buffer of the kernel's, taken as a whole or not at all.
  return static_cast<size_t>(sent) == size_bytes ? 0 : -EMSGSIZE;
}

int FdSocket::Flush() {
  size_t sent = 0;
  int rc = 0;
  while (rc == 0 && sent < unsent_.size()) {
    const ssize_t n =
        send(fd_.get(), unsent_.data() + sent, unsent_.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0)
      sent += static_cast<size_t>(n);
    else
      rc = -errno;
  }
  unsent_.erase(0, sent);
  if (rc < 0 && !IsTransient(-rc)) return rc;
  return flushed() && ending_ ? End() : 0;
}

int FdSocket::End() {
  ending_ = true;
  if (!flushed()) return 0;
  return shutdown(fd_.get(), SHUT_WR) < 0 && errno != ENOTCONN ? -errno : 0;
}

}  // namespace vmm
