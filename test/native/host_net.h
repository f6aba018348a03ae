#pragma once
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "../../native/base/fd.h"
#include "check.h"

/// A network that is the test's alone, for all of the process: real taps, and nothing of the host.
inline void EnterNewNetwork() {
  if (unshare(CLONE_NEWNET) == 0) return;
  std::perror("This test needs a network namespace of its own, as root has: unshare(CLONE_NEWNET)");
  std::abort();
}

inline std::string Output(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  CHECK(pipe != nullptr);
  std::string output;
  std::array<char, 1024> part{};
  for (size_t got = 0; (got = fread(part.data(), 1, part.size(), pipe)) > 0;)
    output.append(part.data(), got);
  CHECK(pclose(pipe) == 0);
  return output;
}
inline void Run(const std::string& command) { Output(command); }

inline vmm::Fd OpenWithoutHeaders(const std::string& name) {
  vmm::Fd file(open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  ifreq asked{};
  std::copy(name.begin(), name.end(), asked.ifr_name);
  asked.ifr_flags = IFF_TAP | IFF_NO_PI;
  CHECK(file.ok() && ioctl(file.get(), TUNSETIFF, &asked) == 0);
  return file;
}

/// The host's end of a tap that is up: what it sends comes out of the tap, and the other way round.
class HostEnd {
 public:
  static constexpr uint16_t kProtocol = 0x88b5;  // for experiments, IEEE 802

  explicit HostEnd(const std::string& interface)
      : fd_(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(kProtocol))) {
    sockaddr_ll at{};
    at.sll_family = AF_PACKET;
    at.sll_protocol = htons(kProtocol);
    at.sll_ifindex = static_cast<int>(if_nametoindex(interface.c_str()));
    CHECK(fd_.ok() && bind(fd_.get(), reinterpret_cast<sockaddr*>(&at), sizeof(at)) == 0);
  }
  bool Put(const std::vector<uint8_t>& frame) const {
    return send(fd_.get(), frame.data(), frame.size(), 0) == static_cast<ssize_t>(frame.size());
  }
  std::vector<uint8_t> Get(int timeout_ms = 10'000) const {
    pollfd poll_fd{fd_.get(), POLLIN, 0};
    if (poll(&poll_fd, 1, timeout_ms) != 1) return {};
    std::vector<uint8_t> frame(1 << 17);
    const ssize_t got = recv(fd_.get(), frame.data(), frame.size(), 0);
    frame.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
    return frame;
  }

 private:
  const vmm::Fd fd_;
};
