#include "open_disk_image.h"

#include <errno.h>
#include <string.h>

#include <utility>

#include "image_file.h"

namespace vmm {
namespace {

constexpr uint64_t kSectorBytes = 512;

int OpenRawDisk(const File& file, std::shared_ptr<DiskImage>* out, std::string* why) {
  uint64_t size_bytes = 0;
  const int rc = ImageFile(file).Size(&size_bytes);
  if (rc < 0) return *why = strerrordesc_np(-rc), rc;
  *out = std::make_shared<DiskImage>(std::vector<File>{file},
                                     size_bytes / kSectorBytes * kSectorBytes);
  return 0;
}

}  // namespace

int OpenDiskImage(const std::vector<FormattedFile>& files, bool /*readonly*/,
                  std::shared_ptr<DiskImage>* out, std::string* why) {
  return OpenRawDisk(files[0].file, out, why);
}

}  // namespace vmm
