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

/// `files`: the image, what it is backed by, and so on, at least one. Only the image is written to,
/// unless `readonly`, and that may begin here. 0, or a negative errno and why in words.
[[nodiscard]] int OpenDiskImage(const std::vector<FormattedFile>& files, bool readonly,
                                std::shared_ptr<DiskImage>* out, std::string* why);

}  // namespace vmm
