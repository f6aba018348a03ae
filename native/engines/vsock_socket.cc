#include "vsock_socket.h"

#include <errno.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <charconv>
#include <cstring>
#include <utility>

namespace vmm {
namespace {

constexpr std::string_view kBlanks = " \t\r";

/// The next word of `line`, which is shortened by it.
std::string_view NextWord(std::string_view* line) {
  line->remove_prefix(std::min(line->find_first_not_of(kBlanks), line->size()));
  const std::string_view word = line->substr(0, line->find_first_of(kBlanks));
  line->remove_prefix(word.size());
  return word;
}

size_t TotalBytes(const iovec* pieces, size_t count) {
  size_t total = 0;
  for (size_t i = 0; i < count; ++i) total += pieces[i].iov_len;
  return total;
}

}  // namespace

int ConnectVsockPort(const std::string& path, uint32_t port, Fd* out) {
  const std::string name = path + "_" + std::to_string(port);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (name.size() >= sizeof(address.sun_path)) return -ENAMETOOLONG;
  std::memcpy(address.sun_path, name.data(), name.size());
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.ok()) return -errno;
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) < 0)
    return -errno;
  *out = std::move(fd);
  return 0;
}

std::optional<uint32_t> ParseVsockGreeting(std::string_view line) {
  constexpr std::string_view kVerb = "connect";
  const std::string_view verb = NextWord(&line);
  if (verb.size() != kVerb.size() || strncasecmp(verb.data(), kVerb.data(), verb.size()) != 0)
    return std::nullopt;
  const std::string_view digits = NextWord(&line);
  uint32_t port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return port;
}

VsockGreeting::Result VsockGreeting::Read(int fd, uint32_t* port) {
  char bytes[kBytesMax];
  while (line_.size() < kBytesMax) {
    const ssize_t seen = recv(fd, bytes, kBytesMax - line_.size(), MSG_PEEK | MSG_DONTWAIT);
    if (seen < 0 && errno == EINTR) continue;
    if (seen < 0 && errno == EAGAIN) return Result::kMore;
    if (seen <= 0) return Result::kRefused;
    const std::string_view text(bytes, static_cast<size_t>(seen));
    const size_t newline = text.find('\n');
    const size_t taken = newline == std::string_view::npos ? text.size() : newline + 1;
    if (recv(fd, bytes, taken, MSG_DONTWAIT) != static_cast<ssize_t>(taken))
      return Result::kRefused;
    line_.append(text.substr(0, newline));
    if (newline == std::string_view::npos) continue;
    const std::optional<uint32_t> parsed = ParseVsockGreeting(line_);
    *port = parsed.value_or(0);
    return parsed.has_value() ? Result::kPort : Result::kRefused;
  }
  return Result::kRefused;
}

VsockRead ReadVsockSocket(int fd, iovec* pieces, size_t count) {
  msghdr message{};
  message.msg_iov = pieces;
  message.msg_iovlen = count;
  ssize_t got = 0;
  do {
    got = recvmsg(fd, &message, MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return {-errno, true};
  // Descriptors that came along, which are dropped, end a read early.
  const bool cut = (message.msg_flags & MSG_CTRUNC) != 0;
  return {got, !cut && static_cast<size_t>(got) < TotalBytes(pieces, count)};
}

ssize_t WriteVsockSocket(int fd, const iovec* pieces, size_t count) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(pieces);
  message.msg_iovlen = count;
  ssize_t sent = 0;
  do {
    sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return errno == EAGAIN ? 0 : -errno;
  return sent;
}

}  // namespace vmm
