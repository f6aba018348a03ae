#include "../../native/memory/dma_space.h"

#include <cstring>
#include <optional>
#include <thread>

#include "driver.h"

namespace {

using vmm::Chain;
using vmm::DmaSpace;
using vmm::Drain;
using vmm::IoDomain;
using vmm::IoLimits;
using vmm::IoStatus;
using vmm::Queue;
using Taken = vmm::Queue::Taken;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kLastAddress = UINT64_MAX;
constexpr const char* kBufferFault = "buffer that the IOMMU does not map so";
constexpr const char* kRingFault = "ring that the IOMMU does not map so";

/// Whether those who hold what was taken away have let go of it.
class Wait {
 public:
  std::shared_ptr<Drain> MakeDrain() {
    return std::make_shared<Drain>([over = over_] { over->store(true); });
  }
  bool over() const { return over_->load(); }

 private:
  const std::shared_ptr<std::atomic<bool>> over_ = std::make_shared<std::atomic<bool>>(false);
};

constexpr uint32_t kRead = 1, kWrite = 2;

std::shared_ptr<IoLimits> MakeLimits(size_t mappings_max = 1000) {
  auto limits = std::make_shared<IoLimits>();
  limits->last = kLastAddress;
  limits->reserved_first = 0xfee0'0000;
  limits->reserved_last = 0xfeef'ffff;
  limits->mappings_max = mappings_max;
  return limits;
}

bool Map(IoDomain* domain, uint64_t first, uint64_t last, uint64_t gpa = 0, bool writable = true) {
  return domain->Map({first, last, gpa, writable ? kRead | kWrite : kRead}) == IoStatus::kOk;
}

/// Whether it was unmapped, of which nothing is in use.
bool Unmap(IoDomain* domain, uint64_t first, uint64_t last) {
  Wait wait;
  const IoStatus status = domain->Unmap(first, last, wait.MakeDrain()).status;
  CHECK(wait.over());
  return status == IoStatus::kOk;
}

/// The examples of VIRTIO 1.2 §5.13.6.6, in pages.
void UnmapsWholeMappings() {
  const auto end = [](uint64_t page) { return page * kPage - 1; };
  const auto limits = MakeLimits();
  IoDomain domain(limits);
  CHECK(Unmap(&domain, 0, end(5)));
  CHECK(Map(&domain, 0, end(10)));
  CHECK(!Unmap(&domain, 0, end(5)));
  CHECK(!Unmap(&domain, 5 * kPage, end(20)));
  CHECK(!Unmap(&domain, 3 * kPage, end(4)));
  CHECK(Unmap(&domain, 0, end(10)) && limits->mapping_count == 0);
  CHECK(Map(&domain, 0, end(5)) && Map(&domain, 5 * kPage, end(10)));
  CHECK(Unmap(&domain, 0, end(5)) && limits->mapping_count == 1);
  CHECK(Unmap(&domain, 0, end(15)) && limits->mapping_count == 0);
  CHECK(Map(&domain, 0, end(5)) && Map(&domain, 10 * kPage, end(15)));
  CHECK(Unmap(&domain, 0, end(15)) && limits->mapping_count == 0);
  CHECK(Unmap(&domain, 0, kLastAddress));
}

void MapsNothingTwice() {
  IoDomain domain(MakeLimits());
  CHECK(Map(&domain, 4 * kPage, 8 * kPage - 1));
  CHECK(!Map(&domain, 4 * kPage, 5 * kPage - 1) && !Map(&domain, 7 * kPage, 9 * kPage - 1));
  CHECK(!Map(&domain, 0, 5 * kPage - 1) && !Map(&domain, 0, kLastAddress));
  CHECK(Map(&domain, 1ul << 40, kLastAddress, 0) == false);  // more than there are addresses
  CHECK(Map(&domain, 8 * kPage, 16 * kPage - 1) && Map(&domain, 0, 4 * kPage - 1));
  CHECK(Map(&domain, kLastAddress - kPage + 1, kLastAddress));
  CHECK(!Map(&domain, kLastAddress - kPage + 1, kLastAddress));
}

/// Of all domains that share it; what goes with a domain makes room.
void BoundsMappings() {
  const auto limits = MakeLimits(2);
  IoDomain first(limits);
  {
    IoDomain second(limits);
    CHECK(Map(&first, 0, kPage - 1) && Map(&second, 0, kPage - 1));
    CHECK(first.Map({kPage, 2 * kPage - 1, 0, kRead}) == IoStatus::kNoMemory);
    CHECK(first.Map({0, kPage - 1, 0, kRead}) == IoStatus::kNoMemory);
  }
  CHECK(first.Map({0, kPage - 1, 0, kRead}) == IoStatus::kInvalid);  // and counts for nothing
  CHECK(Map(&first, kPage, 2 * kPage - 1) && limits->mapping_count == 2);
}

/// A queue of 8 whose rings are at I/O virtual addresses that are not those of guest RAM.
struct Bench {
  static constexpr uint16_t kSize = 8;
  static constexpr uint64_t kRings = 0xffff'ffff'0000'0000;  // RAM has them at kRingsGpa
  static constexpr uint64_t kRingsGpa = 0x10000;
  static constexpr uint64_t kBuffer = 0x7'0000'0000;  // RAM has it at kBufferGpa
  static constexpr uint64_t kBufferGpa = 0x40000;

  std::shared_ptr<vmm::GuestMemory> memory = MakeRam();
  Driver driver{memory, {.size = kSize}};
  std::shared_ptr<IoDomain> domain = std::make_shared<IoDomain>(MakeLimits());
  std::shared_ptr<DmaSpace> space = std::make_shared<DmaSpace>();
  Queue queue{memory, Options(), space};
  Chain chain;
  uint16_t head = 0;

  Bench() {
    space->Attach(domain, false, nullptr);
    CHECK(Map(domain.get(), kRings, kRings + kPage - 1, kRingsGpa));
    CHECK(Map(domain.get(), kBuffer, kBuffer + 2 * kPage - 1, kBufferGpa));
  }
  vmm::QueueOptions Options() const {
    vmm::QueueOptions options = driver.options();
    options.desc_gpa += kRings - kRingsGpa;
    options.avail_gpa += kRings - kRingsGpa;
    options.used_gpa += kRings - kRingsGpa;
    return options;
  }
  Taken Take() { return queue.Begin() ? queue.Take(&chain, &head) : Taken::kBroken; }
  Taken Offer(std::initializer_list<Buffer> buffers) {
    driver.DescribeChain(0, buffers);
    driver.Offer(0);
    return Take();
  }
  bool IsBroken(const char* fault) const {
    return queue.fault() != nullptr && std::strcmp(queue.fault(), fault) == 0;
  }
  bool Points(const iovec& piece, uint64_t gpa, size_t len) const {
    return piece.iov_base == driver.At<uint8_t>(gpa) && piece.iov_len == len;
  }
};

void TranslatesChains() {
  Bench bench;
  CHECK(bench.Offer({{Bench::kBuffer + 100, 50}, {Bench::kBuffer + kPage, 60, true}}) ==
        Taken::kChain);
  CHECK(bench.chain.readable.count == 1 && bench.chain.writable.count == 1);
  CHECK(bench.Points(bench.chain.readable.items[0], Bench::kBufferGpa + 100, 50));
  CHECK(bench.Points(bench.chain.writable.items[0], Bench::kBufferGpa + kPage, 60));
  bench.queue.Complete(0, 60);
  CHECK(bench.queue.Publish());
  Used used{};
  CHECK(bench.driver.TakeUsed(&used) && used.head == 0 && used.written == 60);
}

/// Two mappings side by side are two places in RAM.
void SplitsAtMappings() {
  Bench bench;
  const uint64_t end = Bench::kBuffer + 2 * kPage;
  CHECK(Map(bench.domain.get(), end, end + kPage - 1, 0x80000));
  CHECK(bench.Offer({{end - 10, 30, true}}) == Taken::kChain);
  CHECK(bench.chain.writable.count == 2);
  CHECK(bench.Points(bench.chain.writable.items[0], Bench::kBufferGpa + 2 * kPage - 10, 10));
  CHECK(bench.Points(bench.chain.writable.items[1], 0x80000, 20));
}

void ReadsIndirectTables() {
  Bench bench;
  const uint64_t table = Bench::kBuffer + kPage - 8;  // a descriptor lies in two mappings
  CHECK(Unmap(bench.domain.get(), Bench::kBuffer, Bench::kBuffer + 2 * kPage - 1));
  CHECK(Map(bench.domain.get(), Bench::kBuffer, Bench::kBuffer + kPage - 1, 0x40000));
  CHECK(Map(bench.domain.get(), Bench::kBuffer + kPage, Bench::kBuffer + 2 * kPage - 1, 0x60000));
  const vmm::Descriptor inner{Bench::kBuffer, 40, 0, 0};
  std::memcpy(bench.driver.At<uint64_t>(0x40000 + kPage - 8), &inner, 8);
  std::memcpy(bench.driver.At<uint64_t>(0x60000), reinterpret_cast<const char*>(&inner) + 8, 8);
  vmm::QueueOptions options = bench.Options();
  options.indirect = true;
  Queue queue(bench.memory, options, bench.space);
  bench.driver.Describe(0, {table, 16, vmm::kDescriptorIndirect, 0});
  bench.driver.Offer(0);
  CHECK(queue.Begin() && queue.Take(&bench.chain, &bench.head) == Taken::kChain);
  CHECK(bench.Points(bench.chain.readable.items[0], 0x40000, 40));
}

void BreaksWhereNothingIsMapped() {
  const auto breaks = [](const Buffer& buffer) {
    Bench bench;
    CHECK(Map(bench.domain.get(), 0x5000, 0x5fff, 0x50000, false));                // read-only
    CHECK(bench.domain->Map({0x6000, 0x6fff, 0x50000, kWrite}) == IoStatus::kOk);  // write-only
    CHECK(Map(bench.domain.get(), 0x8000, 0x8fff, kRamBytes));                     // no RAM there
    CHECK(Map(bench.domain.get(), kLastAddress - kPage + 1, kLastAddress, 0x50000));
    CHECK(Map(bench.domain.get(), 0, 0xfff, 0x51000));
    return bench.Offer({buffer}) == Taken::kBroken && bench.IsBroken(kBufferFault);
  };
  CHECK(!breaks({0x5000, 4096}) && !breaks({0x6000, 4096, true}));
  CHECK(breaks({0x5000, 1, true}) && breaks({0x6000, 1}) && breaks({0x8000, 1}));
  CHECK(breaks({0x4fff, 1}) && breaks({0x4fff, 2}) && breaks({0x5fff, 2}) && breaks({0x7000, 1}));
  CHECK(breaks({Bench::kBufferGpa, 1}));                           // that RAM has it says nothing
  CHECK(!breaks({kLastAddress, 1}) && breaks({kLastAddress, 2}));  // and not on from 0
}

/// A ring of which each page lies elsewhere in RAM.
void FindsScatteredRings() {
  Bench bench;
  constexpr uint64_t kFirst = 0x20000, kSecond = 0x30000, kIova = 0x100000;
  CHECK(Map(bench.domain.get(), kIova, kIova + kPage - 1, kFirst));
  CHECK(Map(bench.domain.get(), kIova + kPage, kIova + 2 * kPage - 1, kSecond));
  vmm::QueueOptions options = bench.Options();
  options.used_gpa = kIova + kPage - 8;  // its head on one page; the first entry straddles
  Queue queue(bench.memory, options, bench.space);
  bench.driver.DescribeChain(3, {{Bench::kBuffer, 1}});
  bench.driver.Offer(3);
  CHECK(queue.Begin() && queue.Take(&bench.chain, &bench.head) == Taken::kChain);
  queue.Complete(bench.head, 77);
  CHECK(queue.Publish());
  CHECK(*bench.driver.At<uint16_t>(kFirst + kPage - 6) == 1);
  CHECK(*bench.driver.At<uint32_t>(kFirst + kPage - 4) == 3);
  CHECK(*bench.driver.At<uint32_t>(kSecond) == 77);
}

void BreaksWithoutRings() {
  Bench bench;
  vmm::QueueOptions options = bench.Options();
  options.used_gpa = Bench::kRings + kPage - 8;  // half of it is mapped
  Queue queue(bench.memory, options, bench.space);
  CHECK(!queue.Begin() && std::strcmp(queue.fault(), kRingFault) == 0);
  Queue untranslated(bench.memory, bench.driver.options(), bench.space);
  CHECK(!untranslated.Begin());
}

void UnmappingWaitsForChains(bool complete) {
  Bench bench;
  CHECK(bench.Offer({{Bench::kBuffer, 1, true}}) == Taken::kChain);
  Wait wait;
  CHECK(bench.domain->Unmap(Bench::kBuffer, Bench::kBuffer + 2 * kPage - 1, wait.MakeDrain())
            .status == IoStatus::kOk);
  CHECK(bench.queue.Begin() && !wait.over());
  if (complete)
    bench.queue.Complete(bench.head, 1);
  else
    bench.queue.GiveBack({&bench.head, 1});
  CHECK(wait.over());
  if (!complete) CHECK(bench.Take() == Taken::kBroken && bench.IsBroken(kBufferFault));
}

/// The next mapping of the same addresses is not what a chain points to that was there before.
void MappingAnewIsAnother() {
  Bench bench;
  CHECK(bench.Offer({{Bench::kBuffer, 1, true}}) == Taken::kChain);
  Wait wait;
  const uint64_t last = Bench::kBuffer + 2 * kPage - 1;
  CHECK(bench.domain->Unmap(Bench::kBuffer, last, wait.MakeDrain()).status == IoStatus::kOk);
  CHECK(Map(bench.domain.get(), Bench::kBuffer, last, 0x90000));
  CHECK(!wait.over());
  CHECK(bench.Points(bench.chain.writable.items[0], Bench::kBufferGpa, 1));
  bench.queue.Complete(bench.head, 1);
  CHECK(wait.over() && Unmap(bench.domain.get(), Bench::kBuffer, last));
}

void RingsAreLetGoOf() {
  Bench bench;
  CHECK(bench.queue.Begin() && !bench.queue.IsStale());
  Wait wait;
  CHECK(bench.domain->Unmap(Bench::kRings, Bench::kRings + kPage - 1, wait.MakeDrain()).status ==
        IoStatus::kOk);
  CHECK(!wait.over());
  bench.space->MoveOn();
  CHECK(bench.queue.IsStale() && !wait.over());
  CHECK(!bench.queue.Begin() && bench.IsBroken(kRingFault) && wait.over());
}

void RestHoldsNothing() {
  Bench bench;
  CHECK(bench.queue.Begin());
  bench.queue.LetGo();
  CHECK(bench.queue.IsStale() && !bench.queue.HasChains() && !bench.queue.EnableKicks());
  CHECK(Unmap(bench.domain.get(), Bench::kBuffer, Bench::kBuffer + 2 * kPage - 1));
  Wait wait;
  bench.space->Attach(bench.domain, false, wait.MakeDrain());
  CHECK(wait.over());
  CHECK(Map(bench.domain.get(), Bench::kBuffer, Bench::kBuffer + kPage - 1, 0));
  CHECK(bench.Offer({{Bench::kBuffer, 1}}) == Taken::kChain);
}

void BrokenHoldsChainsOnly() {
  Bench bench;
  CHECK(bench.Offer({{Bench::kBuffer, 1, true}}) == Taken::kChain);
  bench.driver.DescribeChain(1, {{0, 1}});
  bench.driver.Offer(1);
  const uint16_t taken = bench.head;
  CHECK(bench.Take() == Taken::kBroken);
  CHECK(Unmap(bench.domain.get(), Bench::kRings, Bench::kRings + kPage - 1));
  Wait wait;
  CHECK(bench.domain->Unmap(Bench::kBuffer, Bench::kBuffer + 2 * kPage - 1, wait.MakeDrain())
            .status == IoStatus::kOk);
  CHECK(!wait.over());
  bench.queue.Complete(taken, 1);
  CHECK(wait.over());
}

void UnmapsIdleOnly() {
  Bench bench;
  const uint64_t last = Bench::kBuffer + 2 * kPage - 1;
  CHECK(bench.Offer({{Bench::kBuffer, 1, true}}) == Taken::kChain);
  CHECK(!bench.domain->UnmapIdle(Bench::kBuffer, last).has_value());
  CHECK(!bench.domain->UnmapIdle(0, kLastAddress).has_value());
  CHECK(bench.domain->UnmapIdle(Bench::kBuffer, last - kPage) == IoStatus::kRange);
  bench.queue.Complete(bench.head, 1);
  CHECK(bench.domain->UnmapIdle(Bench::kBuffer, last) == IoStatus::kOk);
  CHECK(Map(bench.domain.get(), Bench::kBuffer, last, Bench::kBufferGpa));
}

void DetachingWaitsForChains() {
  Bench bench;
  CHECK(bench.Offer({{Bench::kBuffer, 1, true}}) == Taken::kChain);
  Wait wait;
  bench.space->Attach(nullptr, false, wait.MakeDrain());
  CHECK(!wait.over() && bench.queue.IsStale());
  CHECK(!bench.queue.Begin() && bench.IsBroken(kRingFault) && !wait.over());
  bench.queue.Complete(bench.head, 1);
  CHECK(wait.over());
}

void BypassGoesByRam() {
  Bench bench;
  bench.space->Attach(nullptr, true, nullptr);
  Queue queue(bench.memory, bench.driver.options(), bench.space);
  bench.driver.DescribeChain(0, {{0x1000, 10, true}});
  bench.driver.Offer(0);
  CHECK(queue.Begin() && queue.Take(&bench.chain, &bench.head) == Taken::kChain);
  CHECK(bench.Points(bench.chain.writable.items[0], 0x1000, 10));
  Wait wait;
  bench.space->Attach(bench.domain, false, wait.MakeDrain());
  CHECK(!queue.Begin() && !wait.over());
  queue.Complete(bench.head, 10);
  CHECK(wait.over());
}

/// Waits for the device, or has it wait.
void UnmapAtLast(IoDomain* domain, uint64_t iova, bool idle_only) {
  if (idle_only) {
    std::optional<IoStatus> status;
    while (!status.has_value()) status = domain->UnmapIdle(iova, iova + kPage - 1);
    CHECK(*status == IoStatus::kOk);
    return;
  }
  Wait wait;
  CHECK(domain->Unmap(iova, iova + kPage - 1, wait.MakeDrain()).status == IoStatus::kOk);
  while (!wait.over()) std::this_thread::yield();
}

/// A device writes wherever its driver lets it, while the driver takes pages away: of those that
/// the IOMMU says are free, none is written to any more.
void WritesNowhereAfterUnmapping(bool idle_only) {
  constexpr int kRounds = 2000;
  Bench bench;
  std::atomic<bool> stop = false;
  std::atomic<uint32_t> offered = 0;
  std::thread device([&] {
    while (!stop.load()) {
      if (offered.load() == 0) continue;
      if (!bench.queue.Begin()) break;
      if (bench.queue.Take(&bench.chain, &bench.head) != Taken::kChain) continue;
      std::memset(bench.chain.writable.items[0].iov_base, 0xdd,
                  bench.chain.writable.items[0].iov_len);
      bench.queue.Complete(bench.head, 64);
      static_cast<void>(bench.queue.Publish());
    }
  });
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t iova = 0x1000'0000 + static_cast<uint64_t>(round) * kPage;
    CHECK(Map(bench.domain.get(), iova, iova + kPage - 1, 0x80000));
    bench.driver.DescribeChain(0, {{iova, 64, true}});
    bench.driver.Offer(0);
    offered.store(1);
    Used used{};
    while (!bench.driver.TakeUsed(&used)) std::this_thread::yield();
    UnmapAtLast(bench.domain.get(), iova, idle_only);
    std::memset(bench.driver.At<uint8_t>(0x80000), 0, 64);  // TSan sees whoever still writes
  }
  stop.store(true);
  device.join();
}

}  // namespace

int main() {
  Test("an unmapping takes whole mappings, or nothing", UnmapsWholeMappings);
  Test("nothing is mapped twice", MapsNothingTwice);
  Test("rings and buffers are found where the IOMMU has them", TranslatesChains);
  Test("a buffer is split where its mappings are", SplitsAtMappings);
  Test("a descriptor may lie in two mappings", ReadsIndirectTables);
  Test("a queue breaks at what is not mapped, or not so", BreaksWhereNothingIsMapped);
  Test("the pages of a ring may lie anywhere", FindsScatteredRings);
  Test("a queue breaks whose rings are not mapped wholly", BreaksWithoutRings);
  Test("an unmapping waits for chains that are completed", [] { UnmappingWaitsForChains(true); });
  Test("or given back", [] { UnmappingWaitsForChains(false); });
  Test("addresses that are mapped anew wait for nobody", MappingAnewIsAnother);
  Test("rings that are unmapped are let go of", RingsAreLetGoOf);
  Test("a queue that rests holds nothing", RestHoldsNothing);
  Test("a queue that is broken holds what is in flight", BrokenHoldsChainsOnly);
  Test("a detachment waits for chains", DetachingWaitsForChains);
  Test("a device in bypass goes by the addresses of RAM", BypassGoesByRam);
  Test("mappings are bounded, over all domains", BoundsMappings);
  Test("what is in use is not unmapped as idle", UnmapsIdleOnly);
  Test("nothing is written to what was unmapped", [] { WritesNowhereAfterUnmapping(false); });
  Test("nor to what was unmapped as idle", [] { WritesNowhereAfterUnmapping(true); });
}
