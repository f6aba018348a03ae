#include "../../native/memory/foreign_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../native/base/fd.h"
#include "check.h"

namespace {

using vmm::Fd;
using vmm::MapForeignFile;

constexpr uint64_t kPage = 4096;

Fd Memory(off_t size_bytes) {
  Fd fd(memfd_create("test", MFD_CLOEXEC));
  CHECK(fd.ok() && ftruncate(fd.get(), size_bytes) == 0);
  return fd;
}

void SharesBytes() {
  const Fd fd = Memory(3 * kPage);
  std::shared_ptr<std::byte> host;
  CHECK(MapForeignFile(fd.get(), kPage, 2 * kPage, &host) == 0);
  host.get()[kPage] = std::byte{7};
  char byte = 0;
  CHECK(pread(fd.get(), &byte, 1, 2 * kPage) == 1 && byte == 7);
}

void EndsWithTheFile() {
  const Fd fd = Memory(2 * kPage);
  std::shared_ptr<std::byte> host;
  CHECK(MapForeignFile(fd.get(), kPage, 2 * kPage, &host) == -ERANGE);
  CHECK(MapForeignFile(fd.get(), 3 * kPage, kPage, &host) == -ERANGE);
  CHECK(MapForeignFile(fd.get(), UINT64_MAX - kPage + 1, 2 * kPage, &host) == -ERANGE);
  CHECK(MapForeignFile(fd.get(), kPage, UINT64_MAX, &host) == -ERANGE);
  CHECK(MapForeignFile(fd.get(), 0, 0, &host) == -ERANGE);
  CHECK(MapForeignFile(fd.get(), 1, kPage, &host) == -EINVAL);
  CHECK(host == nullptr);
}

void IsMemory() {
  std::shared_ptr<std::byte> host;
  int ends[2];
  CHECK(pipe(ends) == 0);
  const Fd read_end(ends[0]), write_end(ends[1]);
  const Fd null(open("/dev/zero", O_RDWR | O_CLOEXEC));
  const Fd proc(open("/proc/self/stat", O_RDONLY | O_CLOEXEC));
  for (const Fd* fd : {&read_end, &null, &proc})
    CHECK(MapForeignFile(fd->get(), 0, kPage, &host) == -ENODEV);
}

void MayBeReadOnly() {
  const Fd fd = Memory(kPage);
  CHECK(fcntl(fd.get(), F_GET_SEALS) >= 0);
  const std::string path = "/proc/self/fd/" + std::to_string(fd.get());
  const Fd readonly(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::shared_ptr<std::byte> host;
  CHECK(MapForeignFile(readonly.get(), 0, kPage, &host) == -EACCES);
}

}  // namespace

int main() {
  Test("its bytes are those of the file", SharesBytes);
  Test("what is beyond its end is refused", EndsWithTheFile);
  Test("what is no memory is refused", IsMemory);
  Test("what may only be read is refused", MayBeReadOnly);
}
