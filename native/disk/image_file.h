#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "file.h"

namespace vmm {

/// The file of an image as its format reads and writes tables in it: here and now, all that is
/// asked for or a negative errno. Also past the page cache, whatever the alignment. Virtual so that
/// a test can see in which order things reach the file, and have them fail.
class ImageFile {
 public:
  explicit ImageFile(const File& file) : file_(file) {}
  virtual ~ImageFile() = default;

  const File& file() const { return file_; }
  /// -ENODATA where the file ends before.
  [[nodiscard]] virtual int Read(uint64_t offset, std::span<std::byte> into) const;
  [[nodiscard]] virtual int Write(uint64_t offset, std::span<const std::byte> from) const;
  /// fdatasync(2).
  [[nodiscard]] virtual int Sync() const;
  [[nodiscard]] virtual int Size(uint64_t* size_bytes) const;
  /// Of a regular file; what is added reads as zeroes. -EOPNOTSUPP of a block device.
  [[nodiscard]] virtual int Resize(uint64_t size_bytes) const;
  /// Cuts off what somebody else has put behind the end of the image: it would be in new blocks.
  [[nodiscard]] int CutTo(uint64_t end_bytes) const;
  /// Gives the room back to the file system; the range then reads as zeroes.
  [[nodiscard]] virtual int Punch(uint64_t offset, uint64_t length) const;

 private:
  const File file_;
};

}  // namespace vmm
