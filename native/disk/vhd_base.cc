#include "vhd_base.h"

#include <errno.h>

namespace vmm {

int VhdBase::BeginWrite(DiskRange range, WritePlan* out) {
  if (readonly_) return -EROFS;
  *out = {};
  out->length = range.length;
  return Place(range, &out->offset, &out->length);
}

int VhdBase::EndWrite(uint64_t, bool) { return 0; }

int VhdBase::Discard(DiskRange range) {
  if (readonly_) return -EROFS;
  // There it would not give anything back, but write zeroes for as long as that takes.
  if (file_.file().block_device) return -EOPNOTSUPP;
  while (range.length > 0) {
    Extent extent;
    int rc = Read(range, &extent);
    if (rc == 0 && extent.kind == Extent::Kind::kFile)
      rc = file_.Punch(extent.offset, extent.length);
    if (rc < 0) return rc;
    range.offset += extent.length;
    range.length -= extent.length;
  }
  return 0;
}

int VhdBase::Zero(DiskRange range, bool unmap, uint64_t* done, uint64_t* by_hand) {
  if (readonly_) return -EROFS;
  *done = *by_hand = 0;
  Extent extent;
  if (const int rc = Read(range, &extent); rc < 0) return rc;
  const bool there = extent.kind == Extent::Kind::kFile;
  const bool punched = there && unmap && !file_.file().block_device &&
                       file_.Punch(extent.offset, extent.length) == 0;
  *(there && !punched ? by_hand : done) = extent.length;
  return 0;
}

}  // namespace vmm
