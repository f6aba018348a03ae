#include "pty.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <termios.h>

#include <array>
#include <utility>

namespace vmm {
namespace {

Status MakeRaw(int fd) {
  termios settings{};
  if (tcgetattr(fd, &settings) < 0) return {errno, "tcgetattr(pty)"};
  cfmakeraw(&settings);
  if (tcsetattr(fd, TCSANOW, &settings) < 0) return {errno, "tcsetattr(pty)"};
  return {};
}

}  // namespace

Status OpenPty(Pty* pty) {
  constexpr int kFlags = O_RDWR | O_NOCTTY | O_CLOEXEC;
  Fd master(open("/dev/ptmx", kFlags | O_NONBLOCK));
  if (!master.ok()) return {errno, "open(/dev/ptmx)"};
  std::array<char, 64> path{};
  if (unlockpt(master.get()) < 0) return {errno, "unlockpt"};
  if (const int error = ptsname_r(master.get(), path.data(), path.size()); error != 0)
    return {error, "ptsname"};
  {
    const Fd slave(open(path.data(), kFlags));
    if (!slave.ok()) return {errno, "open(pty)"};
    if (const Status status = MakeRaw(slave.get()); !status.ok()) return status;
  }
  Fd opened(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (opened.ok() && inotify_add_watch(opened.get(), path.data(), IN_OPEN) < 0) opened = Fd();
  *pty = {std::move(master), path.data(), std::move(opened)};
  return {};
}

}  // namespace vmm
