#include "open_disk_image.h"

#include <errno.h>
#include <string.h>

#include <array>
#include <span>
#include <utility>

#include "image_file.h"
#include "qcow2.h"
#include "raw_image.h"
#include "vhd.h"
#include "vhdx.h"

namespace vmm {
namespace {

constexpr uint64_t kSectorBytes = 512;

int SizeOf(const File& file, uint64_t* size_bytes, std::string* why) {
  const int rc = ImageFile(file).Size(size_bytes);
  if (rc < 0) *why = std::string("its size is not known: ") + strerrordesc_np(-rc);
  return rc;
}

int OpenOne(const FormattedFile& from, bool readonly, Qcow2Backing backing,
            std::unique_ptr<Image>* out, std::string* why) {
  switch (from.format) {
    case ImageFormat::kQcow2:
      return OpenQcow2(std::make_unique<ImageFile>(from.file), std::move(backing), readonly, out,
                       why);
    case ImageFormat::kVhd:
      return OpenVhd(from.file, readonly, out, why);
    case ImageFormat::kVhdx:
      return OpenVhdx(from.file, readonly, out, why);
    case ImageFormat::kRaw:
      break;
  }
  uint64_t size_bytes = 0;
  const int rc = SizeOf(from.file, &size_bytes, why);
  if (rc == 0) *out = std::make_unique<RawImage>(size_bytes);
  return rc;
}

int OpenRawDisk(const File& file, std::shared_ptr<DiskImage>* out, std::string* why) {
  uint64_t size_bytes = 0;
  const int rc = SizeOf(file, &size_bytes, why);
  if (rc == 0)
    *out = std::make_shared<DiskImage>(std::vector<File>{file},
                                       size_bytes / kSectorBytes * kSectorBytes);
  return rc;
}

}  // namespace

int ProbeImage(const File& file, ImageFormat* out) {
  const ImageFile image(file);
  std::array<std::byte, kSectorBytes> first{}, last{};
  uint64_t size_bytes = 0;
  *out = ImageFormat::kRaw;
  if (const int rc = image.Size(&size_bytes); rc < 0) return rc;
  if (size_bytes < kSectorBytes) return 0;
  if (const int rc = image.Read(0, first); rc < 0) return rc;
  if (const int rc = image.Read(size_bytes - kSectorBytes, last); rc < 0) return rc;
  if (IsQcow2(first))
    *out = ImageFormat::kQcow2;
  else if (IsVhd(first, last))
    *out = ImageFormat::kVhd;
  else if (IsVhdx(first))
    *out = ImageFormat::kVhdx;
  return 0;
}

int OpenDiskImage(const std::vector<FormattedFile>& files, bool readonly,
                  std::shared_ptr<DiskImage>* out, std::string* why) {
  if (files.size() == 1 && files[0].format == ImageFormat::kRaw)
    return OpenRawDisk(files[0].file, out, why);
  Qcow2Backing opened;
  for (size_t i = files.size(); i-- > 0;) {
    std::unique_ptr<Image> image;
    std::vector<File> all = opened.files;
    all.insert(all.begin(), files[i].file);
    const int rc = OpenOne(files[i], readonly || i > 0, std::move(opened), &image, why);
    if (rc < 0) return rc;
    opened = {std::move(image), std::move(all)};
  }
  const uint64_t size_bytes = opened.image->size_bytes();
  *out = std::make_shared<DiskImage>(std::move(opened.files), size_bytes, std::move(opened.image));
  return 0;
}

}  // namespace vmm
