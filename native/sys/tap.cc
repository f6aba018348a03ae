#include "tap.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/kcmp.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/ether.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace vmm {
namespace {

// Of Linux 6.2, and not in every header that we are built with.
constexpr unsigned kOffloadUso4 = 0x20, kOffloadUso6 = 0x40;

constexpr int kTapFlags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

/// ioctl(2) of an interface by its name; `call` is how an error names it.
Status OnInterface(const std::string& name, unsigned long request, const char* call, ifreq* asked) {
  // The kernel would cut it, and take another interface for it.
  if (name.size() >= IFNAMSIZ) return {EINVAL, call};
  std::copy(name.begin(), name.end(), asked->ifr_name);
  const Fd socket_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket_fd.ok()) return {errno, "socket"};
  if (ioctl(socket_fd.get(), request, asked) < 0) return {errno, call};
  return {};
}

/// TUNSETIFF, which opens or makes the interface.
Status Attach(const std::string& name, int flags, Fd* file, std::string* actual_name) {
  ifreq asked{};
  if (name.size() >= IFNAMSIZ) return {EINVAL, "ioctl(TUNSETIFF)"};
  std::copy(name.begin(), name.end(), asked.ifr_name);
  asked.ifr_flags = static_cast<short>(flags);
  if (ioctl(file->get(), TUNSETIFF, &asked) < 0) return {errno, "ioctl(TUNSETIFF)"};
  *actual_name = asked.ifr_name;
  return {};
}

Status SetHeaderSize(int fd) {
  int size_bytes = kFrameHeaderBytes;
  if (ioctl(fd, TUNSETVNETHDRSZ, &size_bytes) < 0) return {errno, "ioctl(TUNSETVNETHDRSZ)"};
  return {};
}

Status OpenFile(const std::string& name, int flags, Fd* file, std::string* actual_name) {
  *file = Fd(open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!file->ok()) return {errno, "open(/dev/net/tun)"};
  const Status status = Attach(name, flags, file, actual_name);
  return status.ok() ? SetHeaderSize(file->get()) : status;
}

Status SetIpv4(const std::string& name, unsigned long request, const char* call,
               const std::string& address) {
  sockaddr_in in{};
  in.sin_family = AF_INET;
  if (inet_pton(AF_INET, address.c_str(), &in.sin_addr) != 1) return {EINVAL, call};
  ifreq asked{};
  std::memcpy(&asked.ifr_addr, &in, sizeof(in));
  return OnInterface(name, request, call, &asked);
}

}  // namespace

Status OpenTap(const std::string& name, uint32_t queue_pairs, Tap* out) {
  ifreq asked{};
  const bool there = OnInterface(name, SIOCGIFINDEX, "ioctl(SIOCGIFINDEX)", &asked).ok();
  Tap tap;
  tap.made = !there;
  int flags = kTapFlags | (queue_pairs > 1 ? IFF_MULTI_QUEUE : 0);
  std::string next_name = name;
  for (uint32_t pair = 0; pair < queue_pairs; ++pair) {
    Fd file;
    Status status = OpenFile(next_name, flags, &file, &tap.name);
    if (status.error == EINVAL && there && queue_pairs == 1)
      status = OpenFile(next_name, flags | IFF_MULTI_QUEUE, &file, &tap.name);
    if (!status.ok()) return status;
    tap.files.push_back(std::move(file));
    next_name = tap.name;
  }
  *out = std::move(tap);
  return {};
}

Status NameOfTap(int fd, std::string* out) {
  ifreq is{};
  if (ioctl(fd, TUNGETIFF, &is) < 0) return {errno, "ioctl(TUNGETIFF)"};
  if ((is.ifr_flags & (IFF_TAP | IFF_VNET_HDR)) != (IFF_TAP | IFF_VNET_HDR))
    return {EINVAL, "ioctl(TUNGETIFF)"};
  *out = is.ifr_name;
  return {};
}

bool IsOneFile(int fd, int other) {
  const pid_t us = getpid();
  return syscall(SYS_kcmp, us, us, KCMP_FILE, fd, other) == 0;
}

Status AdoptTap(int fd, Fd* out) {
  Fd file(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!file.ok()) return {errno, "fcntl(F_DUPFD_CLOEXEC)"};
  const int status_flags = fcntl(file.get(), F_GETFL);
  if (status_flags < 0 || fcntl(file.get(), F_SETFL, status_flags | O_NONBLOCK) < 0)
    return {errno, "fcntl(F_SETFL)"};
  const Status status = SetHeaderSize(file.get());
  if (status.ok()) *out = std::move(file);
  return status;
}

Status AskTap(int fd, TapFacts* out) {
  ifreq is{};
  if (ioctl(fd, TUNGETIFF, &is) < 0) return {errno, "ioctl(TUNGETIFF)"};
  out->name = is.ifr_name;
  if (ioctl(fd, SIOCGIFHWADDR, &is) < 0) return {errno, "ioctl(SIOCGIFHWADDR)"};
  std::memcpy(&out->mac, is.ifr_hwaddr.sa_data, sizeof(out->mac));
  // The file does not tell the MTU, and ours may be another interface of that name.
  ifreq ours{};
  const bool here = OnInterface(out->name, SIOCGIFHWADDR, "ioctl(SIOCGIFHWADDR)", &ours).ok() &&
                    std::memcmp(ours.ifr_hwaddr.sa_data, &out->mac, sizeof(out->mac)) == 0;
  out->mtu = 0;
  if (here) {
    const Status status = OnInterface(out->name, SIOCGIFMTU, "ioctl(SIOCGIFMTU)", &ours);
    if (!status.ok()) return status;
    out->mtu = static_cast<uint32_t>(ours.ifr_mtu);
  }
  return {};
}

Status ProbeTapUso(int fd, bool* takes) {
  *takes = SetTapOffloads(fd, TUN_F_CSUM | kOffloadUso4 | kOffloadUso6).ok();
  return SetTapOffloads(fd, 0);
}

Status SetTapMac(const std::string& name, const std::string& mac) {
  ifreq asked{};
  ether_addr address{};
  if (ether_aton_r(mac.c_str(), &address) == nullptr) return {EINVAL, "ioctl(SIOCSIFHWADDR)"};
  asked.ifr_hwaddr.sa_family = ARPHRD_ETHER;
  std::memcpy(asked.ifr_hwaddr.sa_data, &address, sizeof(address));
  return OnInterface(name, SIOCSIFHWADDR, "ioctl(SIOCSIFHWADDR)", &asked);
}

Status SetTapMtu(const std::string& name, uint32_t mtu) {
  ifreq asked{};
  asked.ifr_mtu = static_cast<int>(std::min<uint32_t>(mtu, INT32_MAX));
  return OnInterface(name, SIOCSIFMTU, "ioctl(SIOCSIFMTU)", &asked);
}

Status SetTapAddress(const std::string& name, const std::string& ip, const std::string& mask) {
  const Status status = SetIpv4(name, SIOCSIFADDR, "ioctl(SIOCSIFADDR)", ip);
  return status.ok() ? SetIpv4(name, SIOCSIFNETMASK, "ioctl(SIOCSIFNETMASK)", mask) : status;
}

Status SetTapUp(const std::string& name) {
  ifreq asked{};
  const Status status = OnInterface(name, SIOCGIFFLAGS, "ioctl(SIOCGIFFLAGS)", &asked);
  // Who may open a tap of theirs may not set it.
  if (!status.ok() || (asked.ifr_flags & IFF_UP) != 0) return status;
  asked.ifr_flags = static_cast<short>(asked.ifr_flags | IFF_UP);
  return OnInterface(name, SIOCSIFFLAGS, "ioctl(SIOCSIFFLAGS)", &asked);
}

Status SetTapOffloads(int fd, uint32_t offloads) {
  if (ioctl(fd, TUNSETOFFLOAD, static_cast<unsigned long>(offloads)) < 0)
    return {errno, "ioctl(TUNSETOFFLOAD)"};
  return {};
}

Status SetTapQueue(int fd, bool on) {
  ifreq asked{};
  asked.ifr_flags = static_cast<short>(on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE);
  if (ioctl(fd, TUNSETQUEUE, &asked) < 0) return {errno, "ioctl(TUNSETQUEUE)"};
  return {};
}

}  // namespace vmm
