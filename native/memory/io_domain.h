#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
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

/// How a request went, as its answer says. VIRTIO 1.2 §5.13.6.
enum class IoStatus : uint8_t { kOk = 0, kInvalid = 4, kRange = 5, kNoMemory = 8 };

/// What the domains of one IOMMU have in common.
struct IoLimits {
  uint64_t last;            // of the I/O virtual addresses that can be mapped
  uint64_t reserved_first;  // both ends included: never mapped
  uint64_t reserved_last;
  size_t mappings_max;  // of all domains together
  std::atomic<size_t> mapping_count{0};
};

/// What a driver asks to be mapped; the fields are as it wrote them.
struct IoMapRequest {
  uint64_t first;
  uint64_t last;
  uint64_t gpa;
  uint32_t flags;
};

struct IoUnmapped {
  IoStatus status;
  size_t count;
};

/// The addresses of devices that an IOMMU has put together. VIRTIO 1.2 §5.13.6. Any thread.
class IoDomain {
 public:
  explicit IoDomain(std::shared_ptr<IoLimits> limits) : limits_(std::move(limits)) {}
  ~IoDomain() { limits_->mapping_count.fetch_sub(mappings_.size()); }
  IoDomain(const IoDomain&) = delete;
  IoDomain& operator=(const IoDomain&) = delete;

  /// §5.13.6.3. All of it, or with any other status than kOk nothing.
  [[nodiscard]] IoStatus Map(const IoMapRequest& request);

  /// §5.13.6.4. Takes out what lies in [first, last], or with kRange nothing, if a mapping lies
  /// there in part. Nobody finds them any more; those who have found them hold `drain` until they
  /// are through.
  [[nodiscard]] IoUnmapped Unmap(uint64_t first, uint64_t last,
                                 const std::shared_ptr<Drain>& drain);
  /// The same where nobody has to be waited for; else nothing happens, and there is no status.
  std::optional<IoStatus> UnmapIdle(uint64_t first, uint64_t last);
  /// All there are now, in order. Who has them holds no unmapping up.
  std::vector<IoMapping> All() const;

  /// As long as it is held nothing is mapped or unmapped. Short: others wait for it.
  std::unique_lock<std::mutex> Lock() const { return std::unique_lock(mutex_); }
  /// The mapping that an address lies in, null if in none. The lock is held.
  std::shared_ptr<const IoMapping> Find(uint64_t iova) const;

 private:
  using ByFirst = std::map<uint64_t, std::shared_ptr<IoMapping>>;
  struct Range {
    ByFirst::iterator begin, end;
  };

  /// The mappings that lie in [first, last]; nothing if one does in part.
  std::optional<Range> Whole(uint64_t first, uint64_t last);
  std::vector<std::shared_ptr<IoMapping>> Remove(Range range);

  const std::shared_ptr<IoLimits> limits_;
  mutable std::mutex mutex_;
  ByFirst mappings_;
};

/// Domains of an IOMMU by the numbers that its driver gave them. Any thread.
class IoDomains {
 public:
  explicit IoDomains(std::shared_ptr<IoLimits> limits) : limits_(std::move(limits)) {}

  const std::shared_ptr<IoLimits>& limits() const { return limits_; }
  void Put(uint32_t id, std::shared_ptr<IoDomain> domain);
  /// After it nobody is at work on the domain by way of With.
  void Remove(uint32_t id);
  /// What `visit(IoDomain*)` returns, a std::optional; nothing if the domain is not here.
  template <class Visit>
  auto With(uint32_t id, Visit visit) const -> decltype(visit(static_cast<IoDomain*>(nullptr))) {
    const std::lock_guard lock(mutex_);
    const auto found = domains_.find(id);
    if (found == domains_.end()) return std::nullopt;
    return visit(found->second.get());
  }

 private:
  const std::shared_ptr<IoLimits> limits_;
  mutable std::mutex mutex_;
  std::unordered_map<uint32_t, std::shared_ptr<IoDomain>> domains_;
};

}  // namespace vmm
