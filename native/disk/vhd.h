#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "file.h"
#include "image.h"

namespace vmm {

/// Whether an image is a VHD, of whatever kind, by its first and last 512 bytes. A dynamic one
/// has a copy of its footer in front, and is known by that when a crash has cost it the last one.
bool IsVhd(std::span<const std::byte> first_sector, std::span<const std::byte> last_sector);

/// Opens a fixed or a dynamic VHD. 0, or a negative errno with the reason and a remedy in `why`.
/// A last footer that a crash has cost a dynamic one is put back, unless `readonly`.
[[nodiscard]] int OpenVhd(const File& file, bool readonly, std::unique_ptr<Image>* out,
                          std::string* why);

}  // namespace vmm
