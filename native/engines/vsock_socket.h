#pragma once
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "../base/fd.h"

namespace vmm {

/// Connects to what listens for the guest's `port`: the socket at `${path}_${port}`. 0 or a
/// negative errno; -EAGAIN if too many wait there already.
[[nodiscard]] int ConnectVsockPort(const std::string& path, uint32_t port, Fd* out);

/// The first line of a client, without its end: `CONNECT 1024`, in any letter case.
[[nodiscard]] std::optional<uint32_t> ParseVsockGreeting(std::string_view line);

/// What a client says before bytes flow. What lies behind the line stays in the socket.
class VsockGreeting {
 public:
  enum class Result { kMore, kPort, kRefused };
  Result Read(int fd, uint32_t* port);

 private:
  static constexpr size_t kBytesMax = 32;
  std::string line_;
};

/// What a socket gave: bytes, 0 at the end, or -errno. `drained`: whatever comes later, is told of.
struct VsockRead {
  ssize_t bytes = 0;
  bool drained = false;
};
[[nodiscard]] VsockRead ReadVsockSocket(int fd, iovec* pieces, size_t count);

/// How many bytes the socket took now; 0 if it is full, or -errno.
[[nodiscard]] ssize_t WriteVsockSocket(int fd, const iovec* pieces, size_t count);

}  // namespace vmm
