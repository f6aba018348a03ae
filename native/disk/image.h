#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace vmm {

/// Where a stretch of a disk is to be read from.
struct Extent {
  enum class Kind : uint8_t {
    kFile,   ///< from `offset` of file `file` on
    kZero,   ///< from nowhere: it is all zeroes
    kBytes,  ///< from `bytes + offset` on: it was compressed
  };
  Kind kind = Kind::kZero;
  uint32_t file = 0;    ///< 0 is the image itself, 1 what it is backed by, and so on
  uint64_t offset = 0;  ///< with `length`, within the file or `bytes`
  uint64_t length = 0;  ///< of the stretch: at least 1, at most what was asked for
  std::shared_ptr<const std::byte[]> bytes;
};

/// How a stretch of a disk is to be written: in one piece, to the image itself.
struct WritePlan {
  uint64_t offset = 0;  ///< in the file, of the first byte of `before` if there is any
  uint64_t length = 0;  ///< of the stretch: at least 1, at most what was asked for
  /// What stands around it in clusters that it is the first to be written to.
  std::vector<std::byte> before, after;
  uint64_t ticket = 0;  ///< for EndWrite
};

/// What of the disk it is about, in bytes.
struct DiskRange {
  uint64_t offset = 0;
  uint64_t length = 0;  ///< at least 1; the range lies within the disk
};

/// The disk that an image of some format is: says which bytes of its files are meant, and keeps
/// account of them. It moves no data of the guest's.
///
/// Any thread: the queues of a disk share it, so a format guards what it keeps with a mutex. Calls
/// may read and write the format's own tables, here and now; none waits for another request, nor
/// while another takes data apart. What
/// the image says of itself is not trusted: the worst that it does is to fail with EIO.
class Image {
 public:
  virtual ~Image() = default;
  /// A multiple of 512, and no larger than a guest can name.
  virtual uint64_t size_bytes() const = 0;
  /// The least that a guest is to read or write: 512 or 4096.
  virtual uint32_t sector_bytes() const { return 512; }

  /// 0 or a negative errno.
  virtual int Read(DiskRange range, Extent* out) = 0;

  /// 0, or a negative errno: EBUSY as long as another write makes the same clusters, to be tried
  /// again when any write of this disk has ended, or failed to begin. What comes in the same range
  /// meanwhile may find it as it was before.
  virtual int BeginWrite(DiskRange range, WritePlan* out) = 0;
  /// Once for each BeginWrite that returned 0. `written`: all of it is in the file. Only then the
  /// disk has it, if this returns 0.
  virtual int EndWrite(uint64_t ticket, bool written) = 0;

  /// The guest needs the range no more. 0 or a negative errno: EBUSY as for BeginWrite.
  virtual int Discard(DiskRange range) = 0;
  /// Has the first `*done` bytes of the range read as zeroes. 0 of `*done`: zeroes are to be
  /// written to the first `*by_hand` as any other data. 0 or a negative errno: EBUSY as for
  /// BeginWrite. `unmap`: the room may be given back.
  virtual int Zero(DiskRange range, bool unmap, uint64_t* done, uint64_t* by_hand) = 0;

  /// Puts what is kept of tables into the file. An fdatasync(2) of the file after it makes all
  /// durable that had ended before it was called. 0 or a negative errno.
  virtual int Flush() = 0;
};

}  // namespace vmm
