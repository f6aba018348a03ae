#pragma once
#include <sys/stat.h>

#include <cstdint>

namespace vmm {

/// An open file or block device that an image lies in. Borrowed.
struct File {
  int fd = -1;
  bool block_device = false;
  /// What buffers, offsets and lengths must be multiples of, with O_DIRECT; else 1.
  uint32_t align_bytes = 1;
};

inline File FileOf(int fd, uint32_t align_bytes = 1) {
  struct stat stat {};
  return {fd, fstat(fd, &stat) == 0 && S_ISBLK(stat.st_mode), align_bytes};
}

}  // namespace vmm
