#pragma once
#include <string>

#include "../base/fd.h"
#include "../base/status.h"

namespace vmm {

/// The master of a pseudo-terminal. Its slave, at `path`, is raw: nothing is echoed or translated.
struct Pty {
  Fd master;  // non-blocking
  std::string path;
  /// An inotify instance, readable when somebody has opened the slave; a master does not tell. Not
  /// ok() where the user has no instance left.
  Fd opened;
};

/// Nobody has the slave open then, and poll(2) of the master says POLLHUP, as it does whenever the
/// last one has closed it.
[[nodiscard]] Status OpenPty(Pty* pty);

}  // namespace vmm
