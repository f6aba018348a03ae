#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "file.h"
#include "image.h"

namespace vmm {

/// Whether an image is a VHDX, by what it begins with.
bool IsVhdx(std::span<const std::byte> first_sector);

/// Opens a fixed or a dynamic VHDX, MS-VHDX. 0, or a negative errno with the reason and a remedy
/// in `why`. Unless `readonly`, its log is replayed, which a crash of another writer may have left,
/// and its headers say from now on that it was changed.
[[nodiscard]] int OpenVhdx(const File& file, bool readonly, std::unique_ptr<Image>* out,
                           std::string* why);

}  // namespace vmm
