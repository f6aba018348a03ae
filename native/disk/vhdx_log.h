#pragma once
#include <cstdint>
#include <string>

#include "image_file.h"
#include "vhd_bytes.h"
#include "vhdx_guid.h"

namespace vmm {

/// Carries out what the log of a VHDX holds, MS-VHDX 2.3, and makes it stable: some writer has had
/// no time to do so. Bounded by the log, of at most 64 MiB, however it is filled; may be repeated.
/// `log` lies in the file. 0, or a negative errno with the reason in `why`.
[[nodiscard]] int ReplayVhdxLog(const ImageFile& file, const FileRange& log, const VhdxGuid& guid,
                                std::string* why);

}  // namespace vmm
