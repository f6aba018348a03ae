#include "mapping.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lost_pages.h"

namespace vmm {

Mapping::Mapping(std::byte* host, uint64_t size_bytes, bool may_shrink)
    : host_(host), size_bytes_(size_bytes), may_shrink_(may_shrink) {
  if (may_shrink_) LostPages::Guard(host_, size_bytes_);
}

Mapping::~Mapping() {
  if (may_shrink_) LostPages::Release(host_);
  munmap(host_, size_bytes_);
}

int Mapping::Empty() {
  constexpr int kFlags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  // Not mmap(3): TSan takes that for a write of ours, and who still points there may read.
  if (syscall(SYS_mmap, host_, size_bytes_, PROT_READ | PROT_WRITE, kFlags, -1, 0) < 0)
    return -errno;
  // Fresh pages have none of the advice.
  madvise(host_, size_bytes_, MADV_DONTFORK);
  madvise(host_, size_bytes_, MADV_DONTDUMP);
  return 0;
}

}  // namespace vmm
