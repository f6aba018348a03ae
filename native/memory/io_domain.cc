#include "io_domain.h"

#include <iterator>

namespace vmm {
namespace {

constexpr uint32_t kReadable = 1, kWritable = 2;  // of IoMapRequest::flags
/// The smallest page that is mapped.
constexpr uint64_t kPageBytes = 4096;
/// A physical address of x86 has at most so many bits.
constexpr uint64_t kGpaEnd = uint64_t{1} << 52;

IoStatus Check(const IoMapRequest& request, const IoLimits& limits) {
  const auto& [first, last, gpa, flags] = request;
  if ((flags & ~(kReadable | kWritable)) != 0) return IoStatus::kInvalid;
  const bool aligned = (first | (last + 1) | gpa) % kPageBytes == 0;
  if (!aligned || first > last || last > limits.last) return IoStatus::kRange;
  if (gpa >= kGpaEnd || last - first >= kGpaEnd - gpa) return IoStatus::kRange;
  if (first <= limits.reserved_last && last >= limits.reserved_first) return IoStatus::kInvalid;
  return IoStatus::kOk;
}

}  // namespace

IoStatus IoDomain::Map(const IoMapRequest& request) {
  if (const IoStatus status = Check(request, *limits_); status != IoStatus::kOk) return status;
  const bool readable = (request.flags & kReadable) != 0;
  const bool writable = (request.flags & kWritable) != 0;
  auto made = std::make_shared<IoMapping>(
      IoMapping{request.first, request.last, request.gpa, readable, writable});
  const std::lock_guard lock(mutex_);
  if (limits_->mapping_count.fetch_add(1) >= limits_->mappings_max) {
    limits_->mapping_count.fetch_sub(1);
    return IoStatus::kNoMemory;
  }
  const auto next = mappings_.upper_bound(request.first);
  const bool overlaps =
      (next != mappings_.end() && next->first <= request.last) ||
      (next != mappings_.begin() && std::prev(next)->second->last >= request.first);
  if (overlaps) {
    limits_->mapping_count.fetch_sub(1);
    return IoStatus::kInvalid;
  }
  mappings_.emplace_hint(next, request.first, std::move(made));
  return IoStatus::kOk;
}

std::optional<IoDomain::Range> IoDomain::Whole(uint64_t first, uint64_t last) {
  if (first > last) return std::nullopt;
  const Range range{mappings_.lower_bound(first), mappings_.upper_bound(last)};
  const auto& [begin, end] = range;
  if (begin != mappings_.begin() && std::prev(begin)->second->last >= first) return std::nullopt;
  if (begin != end && std::prev(end)->second->last > last) return std::nullopt;
  return range;
}

/// @returns what is to be freed without the lock.
std::vector<std::shared_ptr<IoMapping>> IoDomain::Remove(Range range) {
  std::vector<std::shared_ptr<IoMapping>> removed;
  for (auto each = range.begin; each != range.end; ++each)
    removed.push_back(std::move(each->second));
  mappings_.erase(range.begin, range.end);
  limits_->mapping_count.fetch_sub(removed.size());
  return removed;
}

IoUnmapped IoDomain::Unmap(uint64_t first, uint64_t last, const std::shared_ptr<Drain>& drain) {
  std::vector<std::shared_ptr<IoMapping>> removed;
  const std::lock_guard lock(mutex_);
  const std::optional<Range> range = Whole(first, last);
  if (!range.has_value()) return {IoStatus::kRange, 0};
  for (auto each = range->begin; each != range->end; ++each) each->second->drain = drain;
  removed = Remove(*range);
  return {IoStatus::kOk, removed.size()};
}

std::optional<IoStatus> IoDomain::UnmapIdle(uint64_t first, uint64_t last) {
  std::vector<std::shared_ptr<IoMapping>> removed;
  const std::lock_guard lock(mutex_);
  const std::optional<Range> range = Whole(first, last);
  if (!range.has_value()) return IoStatus::kRange;
  // Who finds one does so under the lock, so what only this has nobody else can get meanwhile. That
  // what others did with it is over is sure when the last share goes, which is before this returns.
  for (auto each = range->begin; each != range->end; ++each)
    if (each->second.use_count() > 1) return std::nullopt;
  removed = Remove(*range);
  return IoStatus::kOk;
}

std::vector<IoMapping> IoDomain::All() const {
  std::vector<IoMapping> all;
  const std::lock_guard lock(mutex_);
  all.reserve(mappings_.size());
  for (const auto& [first, mapping] : mappings_) all.push_back(*mapping);
  return all;
}

std::shared_ptr<const IoMapping> IoDomain::Find(uint64_t iova) const {
  const auto next = mappings_.upper_bound(iova);
  if (next == mappings_.begin()) return nullptr;
  const auto& found = std::prev(next)->second;
  return found->last >= iova ? found : nullptr;
}

void IoDomains::Put(uint32_t id, std::shared_ptr<IoDomain> domain) {
  const std::lock_guard lock(mutex_);
  domains_.insert_or_assign(id, std::move(domain));
}

void IoDomains::Remove(uint32_t id) {
  const std::lock_guard lock(mutex_);
  domains_.erase(id);
}

}  // namespace vmm
