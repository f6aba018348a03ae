#pragma once
#include <cstdint>

#include "image.h"
#include "image_file.h"

namespace vmm {

/// What VHD and VHDX have in common: a block stays where it is once it is made, and is made of
/// zeroes before the table names it. So writes need not know of one another: whichever comes first
/// makes the block for all, and none is ever told EBUSY. What is discarded becomes a hole in the
/// file; the tables stay as they are.
class VhdBase : public Image {
 public:
  VhdBase(const File& file, uint64_t size_bytes, bool readonly)
      : file_(file), size_bytes_(size_bytes), readonly_(readonly) {}

  uint64_t size_bytes() const final { return size_bytes_; }
  int BeginWrite(DiskRange range, WritePlan* out) final;
  int EndWrite(uint64_t ticket, bool written) final;
  int Discard(DiskRange range) final;
  int Zero(DiskRange range, bool unmap, uint64_t* done, uint64_t* by_hand) final;

 protected:
  /// Where the first byte of the range is to be written. `*length`, of what may be written there,
  /// comes as that of the range. 0 or a negative errno.
  virtual int Place(DiskRange range, uint64_t* offset, uint64_t* length) = 0;

  const ImageFile file_;
  const uint64_t size_bytes_;
  const bool readonly_;
};

}  // namespace vmm
