#pragma once
#include <sys/types.h>
#include <sys/uio.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "../base/event_fd.h"
#include "../disk/file.h"

namespace vmm {

/// One operation on one of the files of an image. Its result is the bytes read or written, else 0,
/// or a negative errno.
struct FileOp {
  enum class Kind : uint8_t { kRead, kWrite, kSync, kDiscard, kZero };
  Kind kind = Kind::kSync;
  bool durable = false;  // of kWrite: it is done when the bytes are on stable storage
  bool unmap = false;    // of kZero: the room may be given back
  uint32_t file = 0;     // as DiskImage counts them
  uint64_t offset = 0;
  uint64_t length = 0;
  const iovec* iov = nullptr;  // `length` bytes; must stay until the operation is done
  uint32_t iov_count = 0;      // at most IOV_MAX
};

/// How long a thread may sleep: until then, on the steady clock.
struct Until {
  int64_t ns;
  bool operator==(const Until&) const = default;
};
inline constexpr Until kNoSleep{0}, kForever{std::numeric_limits<int64_t>::max()};

/// Carries operations out for one thread, several at a time if the host can.
class FileIo {
 public:
  struct Done {
    uint32_t tag;
    int64_t result;
  };

  virtual ~FileIo() = default;
  /// Takes an operation, known by `tag`, that Run will start at the latest.
  virtual void Submit(const FileOp& op, uint32_t tag) = 0;
  /// Starts what was taken and appends what is done. If nothing is, sleeps until something is or
  /// the kick is signalled, or `until`; it may also return for no reason.
  virtual void Run(Until until, std::vector<Done>* done) = 0;
};

/// The mode of fallocate(2) that kDiscard of a file, and kZero, are.
int FallocateMode(const FileOp& op);

/// Carries an operation out here and now.
int64_t DoFileOp(const File& file, const FileOp& op);

/// Sleeps until `kick` is signalled, and takes that, or `until`.
void SleepUntil(const EventFd& kick, Until until);

/// The ways to do it, best first.
enum class IoKind { kIoUring, kAio, kSync };

/// The first from `first` on that the host has; the last always works. `files` are those that
/// operations may name, `depth` is how many of these there are at a time, `kick` what ends a wait,
/// borrowed.
/// Call it on the thread that will use it.
std::unique_ptr<FileIo> OpenFileIo(IoKind first, const std::vector<File>& files,
                                   const EventFd& kick, uint16_t depth);

}  // namespace vmm
