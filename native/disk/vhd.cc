#include "vhd.h"

#include <errno.h>

#include <array>

#include "vhd_base.h"
#include "vhd_dynamic.h"
#include "vhd_footer.h"

namespace vmm {
namespace {

using Sector = std::array<std::byte, kVhdSectorBytes>;

/// The disk as it is, and a footer behind it, which no range of the disk reaches.
class VhdFixed final : public VhdBase {
 public:
  using VhdBase::VhdBase;

  int Read(DiskRange range, Extent* out) override {
    *out = {};
    out->kind = Extent::Kind::kFile;
    out->offset = range.offset;
    out->length = range.length;
    return 0;
  }
  int Flush() override { return 0; }

 private:
  int Place(DiskRange range, uint64_t* offset, uint64_t*) override {
    *offset = range.offset;
    return 0;
  }
};

/// The last footer comes first: the first sector of a fixed disk is the guest's to write.
bool FindFooter(Bytes first, Bytes last, VhdFooter* out) {
  if (ParseVhdFooter(last, out)) return true;
  return ParseVhdFooter(first, out) && out->type != VhdFooter::kFixed;
}

/// What speaks against the footer, whatever its type. The size is not zero then.
int CheckFooter(const VhdFooter& footer, std::string* why) {
  if (footer.type == VhdFooter::kDifferencing)
    return Refuse(-EOPNOTSUPP, why,
                  "It is a differencing disk, which is nothing without its parent; merge the two "
                  "with Merge-VHD of Hyper-V and use what comes of it");
  if (footer.type != VhdFooter::kFixed && footer.type != VhdFooter::kDynamic)
    return Refuse(-EOPNOTSUPP, why,
                  "Its type is " + std::to_string(footer.type) +
                      ", neither fixed (2) nor dynamic (3); convert it with qemu-img convert");
  if (footer.size_bytes == 0 || footer.size_bytes % kVhdSectorBytes != 0)
    return Refuse(-EINVAL, why,
                  "The size of its disk is " + std::to_string(footer.size_bytes) +
                      " bytes, not a positive multiple of 512; restore the image from a copy");
  return 0;
}

}  // namespace

bool IsVhd(std::span<const std::byte> first_sector, std::span<const std::byte> last_sector) {
  VhdFooter footer;
  return FindFooter(first_sector, last_sector, &footer);
}

int OpenVhd(const File& file, bool readonly, std::unique_ptr<Image>* out, std::string* why) {
  const ImageFile image(file);
  uint64_t file_bytes = 0;
  int rc = image.Size(&file_bytes);
  if (rc < 0) return Refuse(rc, why, "Its size cannot be told");
  if (file_bytes < kVhdSectorBytes) return Refuse(-EINVAL, why, "It is too short for a VHD");
  Sector first, last;
  rc = image.Read(0, first);
  if (rc == 0) rc = image.Read(file_bytes - kVhdSectorBytes, last);
  if (rc < 0) return Refuse(rc, why, "Its footer cannot be read");
  VhdFooter footer;
  const bool ends_in_footer = ParseVhdFooter(last, &footer);
  if (!FindFooter(first, last, &footer))
    return Refuse(-EINVAL, why, "It has no VHD footer; check its type, or restore it from a copy");
  rc = CheckFooter(footer, why);
  if (rc < 0) return rc;
  if (footer.type == VhdFooter::kDynamic)
    return VhdDynamic::Open({file, readonly, file_bytes, first, ends_in_footer}, out, why);
  if (footer.size_bytes > file_bytes - kVhdSectorBytes)
    return Refuse(-EINVAL, why,
                  "Its disk has " + std::to_string(footer.size_bytes) +
                      " bytes, but its file only " + std::to_string(file_bytes) +
                      "; it is cut short: restore it from a copy");
  *out = std::make_unique<VhdFixed>(file, footer.size_bytes, readonly);
  return 0;
}

}  // namespace vmm
