#include "io_domain.h"

#include <iterator>

namespace vmm {

bool IoDomain::Map(const IoMapping& mapping) {
  auto made = std::make_shared<IoMapping>(mapping);
  const std::lock_guard lock(mutex_);
  const auto next = mappings_.upper_bound(mapping.first);
  if (next != mappings_.end() && next->first <= mapping.last) return false;
  if (next != mappings_.begin() && std::prev(next)->second->last >= mapping.first) return false;
  mappings_.emplace_hint(next, mapping.first, std::move(made));
  return true;
}

std::optional<size_t> IoDomain::Unmap(uint64_t first, uint64_t last,
                                      const std::shared_ptr<Drain>& drain) {
  std::vector<std::shared_ptr<IoMapping>> removed;  // what is freed is freed without the lock
  const std::lock_guard lock(mutex_);
  const auto begin = mappings_.lower_bound(first);
  const auto end = mappings_.upper_bound(last);
  if (begin != mappings_.begin() && std::prev(begin)->second->last >= first) return std::nullopt;
  if (begin != end && std::prev(end)->second->last > last) return std::nullopt;
  for (auto each = begin; each != end; ++each) {
    each->second->drain = drain;
    removed.push_back(std::move(each->second));
  }
  mappings_.erase(begin, end);
  return removed.size();
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

}  // namespace vmm
