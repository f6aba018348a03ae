#pragma once
#include <memory>
#include <string>
#include <vector>

#include "disk_image.h"

namespace vmm {

enum class ImageFormat { kRaw, kQcow2, kVhd, kVhdx };

struct FormattedFile {
  File file;
  ImageFormat format = ImageFormat::kRaw;
};

/// Which format an image is of by its contents; what is of no other is raw. 0 or a negative errno.
[[nodiscard]] int ProbeImage(const File& file, ImageFormat* out);

/// Opens `files`: the image, what it is backed by, and so on, at least one; only the last may be
/// other than qcow2. Only the image is written to, unless `readonly`, and that may begin here. 0,
/// or a negative errno and in words why, and what to do about it.
[[nodiscard]] int OpenDiskImage(const std::vector<FormattedFile>& files, bool readonly,
                                std::shared_ptr<DiskImage>* out, std::string* why);

}  // namespace vmm
