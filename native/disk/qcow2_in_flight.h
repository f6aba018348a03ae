#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "../base/assert.h"
#include "qcow2_format.h"

namespace vmm::qcow2 {

/// A write that has begun and not ended. `disk` counts clusters of the disk.
struct Write {
  enum class Kind : uint8_t {
    kInPlace,  ///< nothing changes but the data
    kRefill,   ///< of clusters that read as zeroes and have room
    kFresh,    ///< to clusters that were free
  };
  Kind kind = Kind::kInPlace;
  Run disk;
  uint64_t file_first = 0;  ///< cluster of the file that is `disk.first`
  bool replaces = false;    ///< what the guest may read there before is not all zeroes
};

/// All writes that have begun and not ended, by ticket: as many as requests are in flight.
class InFlight {
 public:
  uint64_t Add(const Write& write) {
    if (free_.empty()) {
      writes_.push_back(write);
      return writes_.size() - 1;
    }
    const uint64_t ticket = free_.back();
    free_.pop_back();
    writes_[ticket] = write;
    return ticket;
  }
  Write Take(uint64_t ticket) {
    VMM_ASSERT(ticket < writes_.size() && writes_[ticket].disk.count > 0);
    free_.push_back(ticket);
    Write write = writes_[ticket];
    writes_[ticket].disk.count = 0;
    return write;
  }
  /// The first cluster of `disk` that is written, or the end of it.
  uint64_t FirstIn(Run disk) const {
    return First(disk, [](const Write&) { return true; });
  }
  /// The first of them that is given another place, or the end.
  uint64_t FirstMadeIn(Run disk) const {
    return First(disk, [](const Write& write) { return write.kind != Write::Kind::kInPlace; });
  }

 private:
  template <class Counts>
  uint64_t First(Run disk, Counts counts) const {
    uint64_t first = disk.end();
    for (const Write& write : writes_)
      if (write.disk.count > 0 && write.disk.first < first && disk.first < write.disk.end() &&
          counts(write))
        first = std::max(disk.first, write.disk.first);
    return first;
  }

  std::vector<Write> writes_;  // no clusters: its ticket is free
  std::vector<uint64_t> free_;
};

}  // namespace vmm::qcow2
