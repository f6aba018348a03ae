#include "file_io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>

#include "aio.h"
#include "buffered_io.h"
#include "io_uring.h"
#include "sync_io.h"

namespace vmm {
namespace {

int64_t Call(const File& file, const FileOp& op) {
  const int iov_count = static_cast<int>(op.iov_count);
  const auto offset = static_cast<off_t>(op.offset);
  const auto length = static_cast<off_t>(op.length);
  switch (op.kind) {
    case FileOp::Kind::kRead:
      return preadv(file.fd, op.iov, iov_count, offset);
    case FileOp::Kind::kWrite:
      return pwritev2(file.fd, op.iov, iov_count, offset, op.durable ? RWF_DSYNC : 0);
    case FileOp::Kind::kSync:
      return fdatasync(file.fd);
    case FileOp::Kind::kDiscard:
      if (file.block_device) {
        std::array<uint64_t, 2> range{op.offset, op.length};
        return ioctl(file.fd, BLKDISCARD, range.data());
      }
      [[fallthrough]];
    case FileOp::Kind::kZero:
      return fallocate(file.fd, FallocateMode(op), offset, length);
  }
  return errno = EINVAL, -1;
}

}  // namespace

int FallocateMode(const FileOp& op) {
  const bool punch = op.unmap || op.kind == FileOp::Kind::kDiscard;
  return (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE;
}

int64_t DoFileOp(const File& file, const FileOp& op) {
  const int64_t result = Call(file, op);
  return result < 0 ? -errno : result;
}

void SleepUntil(const EventFd& kick, Until until) {
  if (until == kForever) return kick.Wait();
  if (until != kNoSleep) kick.WaitUntil(until.ns);
}

std::unique_ptr<FileIo> OpenFileIo(IoKind first, const std::vector<File>& files,
                                   const EventFd& kick, uint16_t depth) {
  std::unique_ptr<FileIo> io;
  if (first == IoKind::kIoUring && IoUring::Open(files, kick, depth, &io) == 0) {
    std::unique_ptr<FileIo> writes;
    if (files[0].align_bytes > 1 || Aio::Open(files, nullptr, depth, &writes) < 0) return io;
    return std::make_unique<BufferedIo>(std::move(io), std::move(writes));
  }
  if (first != IoKind::kSync && Aio::Open(files, &kick, depth, &io) == 0) return io;
  return std::make_unique<SyncIo>(files, kick);
}

}  // namespace vmm
