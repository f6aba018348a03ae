#pragma once
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "exit_mailbox.h"

namespace vmm {

/// Answers accesses of 1, 2 or 4 bytes on the vCPU thread that made them, so on several at once.
class NativeDevice {
 public:
  virtual ~NativeDevice() = default;
  virtual uint32_t Read(uint32_t offset, uint8_t size_bytes) = 0;
  virtual void Write(uint32_t offset, uint8_t size_bytes, uint32_t value) = 0;
};

/// A claimed range: `native` answers it, or where that is null, handler `handler` on the JS thread.
struct BusRange {
  uint64_t base;
  uint64_t size_bytes;
  NativeDevice* native;
  uint32_t handler;
};

enum class Space : uint8_t { kPort, kMmio };

/// Who answers an address, for ports and for MMIO.
///
/// vCPU threads look up without locks: the JS thread publishes a new sorted table, and frees the
/// old one once every vCPU has been seen outside an exit since. A vCPU counts in and out of an
/// exit, so its count is odd while it may hold a table.
class ExitBus {
 public:
  explicit ExitBus(size_t vcpus) : exits_(vcpus) {}
  ~ExitBus();
  ExitBus(const ExitBus&) = delete;
  ExitBus& operator=(const ExitBus&) = delete;

  /// JS thread. 0, -EINVAL for an empty or wrapping range, or -EEXIST if it overlaps another.
  int Claim(Space space, const BusRange& range);
  /// JS thread. The range that starts at `base`, if there is one.
  void Release(Space space, uint64_t base);

  /// vCPU thread. Calls `visit(range, offset)` with the range that holds all of the access, or
  /// returns false. The range is valid during the call.
  template <class Visit>
  bool Find(size_t vcpu, Space space, uint64_t address, uint8_t size_bytes, Visit visit) {
    std::atomic<uint64_t>& exits = exits_[vcpu].count;
    exits.fetch_add(1);  // sequentially consistent: counted in before the table is loaded
    const Table& table = *tables_[static_cast<size_t>(space)].load();
    const BusRange* range = table.Find(address, size_bytes);
    if (range != nullptr) visit(*range, static_cast<uint32_t>(address - range->base));
    exits.fetch_add(1);
    return range != nullptr;
  }

 private:
  struct Table {
    std::vector<BusRange> ranges;  // sorted by base, not overlapping
    const BusRange* Find(uint64_t address, uint8_t size_bytes) const;
  };
  struct Retired {
    std::unique_ptr<const Table> table;
    std::vector<uint64_t> exits;  // as counted when it was replaced
  };
  struct alignas(64) Exits {
    std::atomic<uint64_t> count{0};
  };

  void Publish(Space space, std::unique_ptr<const Table> next);
  bool Unused(const Retired& retired) const;

  std::vector<Exits> exits_;  // one a vCPU
  std::array<std::atomic<const Table*>, 2> tables_{new Table, new Table};
  std::vector<Retired> retired_;  // JS thread only
};

}  // namespace vmm
