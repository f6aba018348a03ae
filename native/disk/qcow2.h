#pragma once
#include <memory>
#include <string>
#include <vector>

#include "image.h"
#include "image_file.h"
#include "qcow2_header.h"

namespace vmm {

/// What an image is backed by: the disk that it was, and the files that its extents are in.
struct Qcow2Backing {
  std::unique_ptr<Image> image;
  std::vector<File> files;  ///< in the order of Extent::file, from the backing file itself on
};

/// Opens the image in `file`. One whose header names a backing file needs `backing`; it may be
/// smaller or larger. The destructor leaves a clean image, if the file can be written to.
///
/// 0 or a negative errno; then `*why` says in words what is wrong with the image and what to do
/// about it, to stand behind its name and a colon.
int OpenQcow2(std::unique_ptr<ImageFile> file, Qcow2Backing backing, bool readonly,
              std::unique_ptr<Image>* out, std::string* why);

}  // namespace vmm
