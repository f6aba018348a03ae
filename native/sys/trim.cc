#include "trim.h"

#include <malloc.h>
#include <sys/mman.h>

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace vmm {
namespace {

/// One mapping of /proc/self/smaps, proc_pid_smaps(5).
struct Mapping {
  uintptr_t start = 0;
  uintptr_t end = 0;
  bool read_only_file = false;
};

/// False if the line is no mapping's first: `start-end permissions offset device inode path`.
bool ParseHeader(const std::string& line, Mapping* out) {
  std::istringstream in(line);
  char dash = 0;
  uint64_t offset = 0, inode = 0;
  std::string permissions, device;
  in >> std::hex >> out->start >> dash >> out->end >> permissions >> offset >> device;
  in >> std::dec >> inode;
  if (in.fail() || dash != '-') return false;
  out->read_only_file =
      permissions.size() == 4 && permissions[1] == '-' && permissions[3] == 'p' && inode != 0;
  return true;
}

}  // namespace

void TrimMemory() {
  malloc_trim(0);
  std::ifstream smaps("/proc/self/smaps");
  Mapping mapping;
  for (std::string line; std::getline(smaps, line);) {
    Mapping next;
    if (ParseHeader(line, &next)) mapping = next;
    // Without pages of its own it holds nothing that is not in the file; relocated data has some.
    else if (mapping.read_only_file && line.rfind("Anonymous:", 0) == 0 &&
             line.find(" 0 kB") != std::string::npos)
      // NOLINTNEXTLINE(performance-no-int-to-ptr): the kernel names mappings by number
      madvise(reinterpret_cast<void*>(mapping.start), mapping.end - mapping.start, MADV_DONTNEED);
  }
}

}  // namespace vmm
