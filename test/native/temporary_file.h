#pragma once
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "../../native/base/fd.h"
#include "../../native/disk/disk_image.h"
#include "check.h"

/// Of the file system that temporary files are on. It has no name.
inline vmm::Fd TemporaryFile(uint64_t size_bytes) {
  std::string name = "/tmp/vmm-test.XXXXXX";
  vmm::Fd file(mkostemp(name.data(), O_CLOEXEC));
  CHECK(file.ok() && unlink(name.c_str()) == 0 &&
        ftruncate(file.get(), static_cast<off_t>(size_bytes)) == 0);
  return file;
}

inline std::shared_ptr<vmm::DiskImage> RawDisk(int fd, uint64_t size_bytes,
                                               uint32_t align_bytes = 1) {
  return std::make_shared<vmm::DiskImage>(std::vector<vmm::File>{{fd, false, align_bytes}},
                                          size_bytes);
}
