#include "foreign_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

namespace vmm {

int MapForeignFile(int fd, uint64_t file_offset, uint64_t size_bytes,
                   std::shared_ptr<std::byte>* out) {
  if (fcntl(fd, F_GET_SEALS) < 0) return -ENODEV;  // only files of memory have them
  struct stat stat;
  if (fstat(fd, &stat) < 0) return -errno;
  const auto end = static_cast<uint64_t>(stat.st_size);
  if (size_bytes == 0 || file_offset > end || size_bytes > end - file_offset) return -ERANGE;
  void* host = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                    static_cast<off_t>(file_offset));
  if (host == MAP_FAILED) return -errno;
  madvise(host, size_bytes, MADV_DONTFORK);
  madvise(host, size_bytes, MADV_DONTDUMP);
  *out = {static_cast<std::byte*>(host), [size_bytes](std::byte* at) { munmap(at, size_bytes); }};
  return 0;
}

}  // namespace vmm
