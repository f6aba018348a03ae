#include "exit_bus.h"

#include <errno.h>

#include <algorithm>
#include <utility>

namespace vmm {

ExitBus::~ExitBus() {
  for (auto& table : tables_) delete table.load();
}

const BusRange* ExitBus::Table::Find(uint64_t address, uint8_t size_bytes) const {
  const auto above = [](uint64_t at, const BusRange& range) { return at < range.base; };
  auto next = std::upper_bound(ranges.begin(), ranges.end(), address, above);
  if (next == ranges.begin()) return nullptr;
  const BusRange& range = *--next;
  const uint64_t offset = address - range.base;
  const bool inside = offset < range.size_bytes && size_bytes <= range.size_bytes - offset;
  return inside ? &range : nullptr;
}

int ExitBus::Claim(Space space, const BusRange& range) {
  if (range.size_bytes == 0 || range.base > UINT64_MAX - range.size_bytes) return -EINVAL;
  auto next = std::make_unique<Table>(*tables_[static_cast<size_t>(space)].load());
  for (const BusRange& other : next->ranges)
    if (range.base < other.base + other.size_bytes && other.base < range.base + range.size_bytes)
      return -EEXIST;
  const auto below = [](const BusRange& a, const BusRange& b) { return a.base < b.base; };
  auto& ranges = next->ranges;
  ranges.insert(std::lower_bound(ranges.begin(), ranges.end(), range, below), range);
  Publish(space, std::move(next));
  return 0;
}

void ExitBus::Release(Space space, uint64_t base) {
  auto next = std::make_unique<Table>(*tables_[static_cast<size_t>(space)].load());
  std::erase_if(next->ranges, [base](const BusRange& range) { return range.base == base; });
  Publish(space, std::move(next));
}

void ExitBus::Publish(Space space, std::unique_ptr<const Table> next) {
  Retired retired;
  retired.table.reset(tables_[static_cast<size_t>(space)].exchange(next.release()));
  for (const Exits& exits : exits_) retired.exits.push_back(exits.count.load());
  retired_.push_back(std::move(retired));
  std::erase_if(retired_, [this](const Retired& old) { return Unused(old); });
}

/// A vCPU that was outside when the table was replaced can only have found the new one since.
bool ExitBus::Unused(const Retired& retired) const {
  for (size_t vcpu = 0; vcpu < exits_.size(); ++vcpu) {
    const uint64_t then = retired.exits[vcpu];
    if (then % 2 == 1 && exits_[vcpu].count.load() == then) return false;
  }
  return true;
}

}  // namespace vmm
