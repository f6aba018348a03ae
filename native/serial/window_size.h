#pragma once
#include <sys/ioctl.h>

namespace vmm {

/// Of a terminal, in characters; all zero where `fd` is none.
inline winsize WindowSizeOf(int fd) {
  winsize size{};
  if (ioctl(fd, TIOCGWINSZ, &size) < 0) return {};
  return size;
}

}  // namespace vmm
