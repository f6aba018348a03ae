#pragma once
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>

#include "../../native/base/fd.h"
#include "check.h"

/// Of the file system that temporary files are on. It has no name.
inline vmm::Fd TemporaryFile(uint64_t size_bytes) {
  std::string name = "/tmp/vmm-test.XXXXXX";
  vmm::Fd file(mkostemp(name.data(), O_CLOEXEC));
  CHECK(file.ok() && unlink(name.c_str()) == 0 &&
        ftruncate(file.get(), static_cast<off_t>(size_bytes)) == 0);
  return file;
}
