#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace vmm {

/// Calls `drained` when the last who holds it lets go, on that thread.
class Drain {
 public:
  explicit Drain(std::function<void()> drained) : drained_(std::move(drained)) {}
  ~Drain() { drained_(); }
  Drain(const Drain&) = delete;
  Drain& operator=(const Drain&) = delete;

 private:
  const std::function<void()> drained_;
};

/// I/O virtual addresses, both ends included, and where in guest physical ones they lie.
struct IoMapping {
  uint64_t first;
  uint64_t last;
  uint64_t gpa;
  bool readable;
  bool writable;
  /// Of an unmapping that waits for whoever still uses this. Nobody reads it.
  std::shared_ptr<Drain> drain = nullptr;
};

/// Whoever has pointers that came by a mapping holds it meanwhile.
using IoMappings = std::vector<std::shared_ptr<const IoMapping>>;

/// The addresses of devices that an IOMMU has put together. VIRTIO 1.2 §5.13.6. Any thread; only
/// the JS one changes it.
class IoDomain {
 public:
  /// False, with nothing mapped, if any of it is mapped already.
  [[nodiscard]] bool Map(const IoMapping& mapping);

  /// Takes out what lies in [first, last] and returns how many mappings that were; nothing, with
  /// all left as it was, if one of them lies there in part. Nobody finds them any more; those who
  /// have found them hold `drain` until they are through.
  std::optional<size_t> Unmap(uint64_t first, uint64_t last, const std::shared_ptr<Drain>& drain);

  /// All there are now, in order. Who has them holds no unmapping up.
  std::vector<IoMapping> All() const;

  /// As long as it is held nothing is mapped or unmapped. Short: the JS thread waits for it.
  std::unique_lock<std::mutex> Lock() const { return std::unique_lock(mutex_); }
  /// The mapping that an address lies in, null if in none. The lock is held.
  std::shared_ptr<const IoMapping> Find(uint64_t iova) const;

 private:
  using ByFirst = std::map<uint64_t, std::shared_ptr<IoMapping>>;

  mutable std::mutex mutex_;
  ByFirst mappings_;
};

}  // namespace vmm
