#pragma once
#include <string>

#include "../base/fd.h"
#include "../base/status.h"

namespace vmm {

/// Connects to whoever listens on a Unix stream socket at `path`; never waits. Non-blocking.
/// ENOENT or ECONNREFUSED if nobody does, EAGAIN if too many are waiting there already.
[[nodiscard]] Status ConnectUnix(const std::string& path, Fd* stream);

/// Two ends that are connected to each other; both non-blocking and closed on exec.
[[nodiscard]] Status PairUnix(Fd* ours, Fd* theirs);

}  // namespace vmm
