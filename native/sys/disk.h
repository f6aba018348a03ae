#pragma once
#include <cstdint>

#include "../base/status.h"

namespace vmm {

/// What the host says of an open image file or block device. Sizes in bytes.
struct DiskGeometry {
  uint64_t size_bytes = 0;
  uint32_t logical_bytes = 512;  ///< the least that can be addressed
  uint32_t physical_bytes = 512;
  uint32_t alignment_offset_bytes = 0;  ///< of the first physical block
  uint32_t min_io_bytes = 512;
  uint32_t opt_io_bytes = 0;  ///< 0 if there is no best size
  /// What addresses, offsets and lengths of I/O must be multiples of; 1 unless O_DIRECT.
  uint32_t direct_align_bytes = 1;
};

/// Makes a file that was opened without waiting, O_NONBLOCK, one for I/O, which may wait, past the
/// page cache if `direct`, and asks what it is. Of a regular file only the size is looked at, and
/// what O_DIRECT demands.
[[nodiscard]] Status PrepareDisk(int fd, bool direct, DiskGeometry* out);

enum class DiskLock { kNone, kShared, kExclusive };

/// Takes, or gives back, a lock on the first `size_bytes` of the open file, all of it and what may
/// come after if 0. It belongs to the open file, not to the process, and goes when that does.
/// -EAGAIN if another open file has a lock against it; nothing waits.
[[nodiscard]] int LockDisk(int fd, DiskLock lock, uint64_t size_bytes);

/// Has the file system set aside room for all of a regular file. It may take long.
[[nodiscard]] int PreallocateDisk(int fd, uint64_t size_bytes);

}  // namespace vmm
