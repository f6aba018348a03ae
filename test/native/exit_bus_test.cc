#include "../../native/kvm/exit_bus.h"

#include <errno.h>

#include <atomic>
#include <latch>
#include <map>
#include <random>
#include <thread>

#include "check.h"

namespace {

using vmm::BusRange;
using vmm::ExitBus;
using vmm::Space;

/// The handler at [address, address + size), and where in its range; -1 if nobody has all of it.
struct Found {
  int64_t handler = -1;
  uint32_t offset = 0;
  bool operator==(const Found&) const = default;
};

Found Look(ExitBus* bus, Space space, uint64_t address, uint8_t size_bytes) {
  Found found;
  bus->Find(0, space, address, size_bytes, [&](const BusRange& range, uint32_t offset) {
    found = {range.handler, offset};
  });
  return found;
}

/// What the bus should be: one entry a range, searched from the first to the last.
class Model {
 public:
  bool Free(uint64_t base, uint64_t size_bytes) const {
    for (const auto& [other, range] : ranges_)
      if (base < other + range.size_bytes && other < base + size_bytes) return false;
    return true;
  }
  Found Look(uint64_t address, uint8_t size_bytes) const {
    for (const auto& [base, range] : ranges_)
      if (address >= base && address + size_bytes <= base + range.size_bytes)
        return {range.handler, static_cast<uint32_t>(address - base)};
    return {};
  }
  std::map<uint64_t, BusRange> ranges_;
};

void AgreesWithModel() {
  constexpr uint64_t kAddresses = 64;
  std::mt19937 random(1);
  const auto below = [&](uint64_t limit) { return random() % limit; };
  ExitBus bus(1);
  Model model;
  for (uint32_t step = 0; step < 20'000; ++step) {
    const uint64_t base = below(kAddresses);
    const uint64_t size_bytes = 1 + below(8);
    if (below(2) == 0) {
      const int expected = model.Free(base, size_bytes) ? 0 : -EEXIST;
      const BusRange range{base, size_bytes, nullptr, step};
      CHECK(bus.Claim(Space::kPort, range) == expected);
      if (expected == 0) model.ranges_[base] = range;
    } else {
      bus.Release(Space::kPort, base);
      model.ranges_.erase(base);
    }
    const uint64_t address = below(kAddresses + 8);
    for (const uint8_t access : {1, 2, 4})
      CHECK(Look(&bus, Space::kPort, address, access) == model.Look(address, access));
    CHECK(Look(&bus, Space::kMmio, address, 1) == Found{});
  }
}

void RefusesBadRanges() {
  ExitBus bus(1);
  const auto claim = [&](uint64_t base, uint64_t size_bytes) {
    return bus.Claim(Space::kMmio, {base, size_bytes, nullptr, 0});
  };
  CHECK(claim(0x1000, 0) == -EINVAL);
  CHECK(claim(UINT64_MAX - 1, 4) == -EINVAL);
  CHECK(claim(UINT64_MAX - 4, 4) == 0);
  CHECK(Look(&bus, Space::kMmio, UINT64_MAX - 2, 4) == Found{});
}

/// Whatever table a reader finds, it is whole, and lives as long as the reader uses it.
void ReadersSeeWholeTables() {
  constexpr uint64_t kRanges = 16;
  ExitBus bus(2);
  std::atomic<bool> stop{false};
  std::vector<std::jthread> readers;
  for (size_t vcpu = 0; vcpu < 2; ++vcpu)
    readers.emplace_back([&, vcpu] {
      for (uint64_t at = 0; !stop.load(); at = (at + 1) % kRanges)
        bus.Find(vcpu, Space::kPort, at * 4 + 1, 2, [&](const BusRange& range, uint32_t offset) {
          CHECK(range.base == at * 4 && range.handler == at && offset == 1);
        });
    });
  for (uint32_t round = 0; round < 200; ++round) {
    for (uint32_t i = 0; i < kRanges; ++i)
      CHECK(bus.Claim(Space::kPort, {i * 4, 4, nullptr, i}) == 0);
    for (uint32_t i = 0; i < kRanges; ++i) bus.Release(Space::kPort, i * 4);
  }
  stop.store(true);
}

void KeepsTableInUse() {
  ExitBus bus(2);
  CHECK(bus.Claim(Space::kPort, {0, 4, nullptr, 42}) == 0);
  std::latch inside(1), replaced(1);
  std::jthread reader([&] {
    bus.Find(1, Space::kPort, 0, 1, [&](const BusRange& range, uint32_t) {
      inside.count_down();
      replaced.wait();
      CHECK(range.handler == 42);
    });
  });
  inside.wait();
  for (uint32_t i = 0; i < 10; ++i) bus.Release(Space::kPort, 0);
  replaced.count_down();
}

void FreesTablesOutOfUse() {
  ExitBus bus(2);
  const auto churn = [&] {
    for (uint32_t i = 0; i < 1000; ++i) {
      CHECK(bus.Claim(Space::kPort, {i, 1, nullptr, i}) == 0);
      bus.Release(Space::kPort, i);
    }
  };
  churn();
  const size_t before = __sanitizer_get_current_allocated_bytes();
  churn();
  CHECK(__sanitizer_get_current_allocated_bytes() <= before + 1024);
}

}  // namespace

int main() {
  Test("claims, releases and look-ups agree with a model", AgreesWithModel);
  Test("empty and wrapping ranges are refused", RefusesBadRanges);
  Test("readers see whole tables while ranges come and go", ReadersSeeWholeTables);
  Test("a table lives while an exit uses it", KeepsTableInUse);
  Test("tables out of use are freed", FreesTablesOutOfUse);
}
