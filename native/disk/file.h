#pragma once
#include <cstdint>

namespace vmm {

/// An open file or block device that an image lies in. Borrowed.
struct File {
  int fd = -1;
  bool block_device = false;
  /// What buffers, offsets and lengths must be multiples of, with O_DIRECT; else 1.
  uint32_t align_bytes = 1;
};

}  // namespace vmm
