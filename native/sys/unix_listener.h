#pragma once
#include <string>

#include "../base/fd.h"
#include "../base/status.h"

namespace vmm {

/// Listens on a Unix stream socket, non-blocking. EADDRINUSE if anything lies at `path`, whatever
/// it is: the caller may not remove what it has not made.
[[nodiscard]] Status ListenUnix(const std::string& path, Fd* listener);

}  // namespace vmm
