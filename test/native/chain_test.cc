#include "../../native/virtio/chain.h"

#include <climits>
#include <csignal>

#include "driver.h"

namespace {

using vmm::Chain;
using vmm::ChainStatus;
using vmm::kDescriptorIndirect;
using vmm::kDescriptorNext;

constexpr uint16_t kSize = 8;
constexpr uint64_t kTable = 0x10000, kIndirectTable = 0x20000;
constexpr uint64_t kBuffers = 0x30000;

/// RAM, a driver and one chain walked.
struct Bench {
  std::shared_ptr<vmm::GuestMemory> memory = MakeRam();
  Driver driver;
  Chain chain;

  explicit Bench(uint16_t size = kSize)
      : driver(memory, {.size = size, .desc_gpa = kTable, .indirect = true}) {}
  ChainStatus Walk(uint16_t head = 0, bool indirect_allowed = true) {
    return vmm::WalkChain(*memory->Snapshot(), kTable, driver.options().size, head,
                          indirect_allowed, &chain);
  }
  std::byte* host(uint64_t gpa) const { return driver.At<std::byte>(gpa); }
};

bool Is(const iovec& piece, const std::byte* host, size_t len) {
  return piece.iov_base == host && piece.iov_len == len;
}

void TellsDirections() {
  Bench bench;
  bench.driver.DescribeChain(2, {{kBuffers, 1}, {kBuffers + 8, 2}, {kBuffers + 16, 3, true}});
  CHECK(bench.Walk(2) == ChainStatus::kOk);
  CHECK(bench.chain.readable.count == 2 && bench.chain.writable.count == 1);
  CHECK(Is(bench.chain.readable.items[0], bench.host(kBuffers), 1));
  CHECK(Is(bench.chain.readable.items[1], bench.host(kBuffers + 8), 2));
  CHECK(Is(bench.chain.writable.items[0], bench.host(kBuffers + 16), 3));
}

void RefusesToWriteWhereItMayNot() {
  Bench bench;
  constexpr uint64_t kReadonly = uint64_t{1} << 32;
  vmm::RegionOptions readonly{kReadonly, 4096};
  readonly.readonly = true;
  CHECK(bench.memory->Add(readonly) == 0);
  bench.driver.DescribeChain(0, {{kReadonly, 8}});
  CHECK(bench.Walk() == ChainStatus::kOk);
  bench.driver.DescribeChain(0, {{kReadonly, 8, true}});
  CHECK(bench.Walk() == ChainStatus::kBadBuffer);
}

/// The guest at its worst: what it changes, and after how many more instructions of ours.
volatile uint16_t* attacked_flags = nullptr;
volatile sig_atomic_t instructions_left = 0;

/// After each instruction, while the processor is told to trap.
void OnInstruction(int) {
  if (instructions_left == 0) *attacked_flags = kDescriptorIndirect;
  instructions_left = instructions_left - 1;
}

void TrapEachInstruction(bool on) {
  constexpr uint64_t kTrapFlag = 0x100;
  const uint64_t flags = __builtin_ia32_readeflags_u64();
  __builtin_ia32_writeeflags_u64(on ? flags | kTrapFlag : flags & ~kTrapFlag);
}

/// A buffer to be written becomes a table that has one, after so many instructions of the walk.
/// Looked at twice, it could be one to be read. Returns how many instructions were left.
int WalkAttacked(const vmm::Regions& ram, int instant, Chain* chain) {
  *attacked_flags = vmm::kDescriptorWrite;
  instructions_left = instant;
  TrapEachInstruction(true);
  const ChainStatus status = vmm::WalkChain(ram, kTable, kSize, 0, true, chain);
  TrapEachInstruction(false);
  CHECK(status == ChainStatus::kOk);
  return instructions_left;
}

void ReadsOnce() {
  constexpr int kInstants = 150;  // sanitizers make the walk long
  Bench bench;
  bench.driver.DescribeIndirect(0, kIndirectTable, {{kBuffers, 1, true}});
  const auto ram = bench.memory->Snapshot();
  attacked_flags = &bench.driver.At<vmm::Descriptor>(kTable)->flags;
  std::signal(SIGTRAP, OnInstruction);
  const int length = INT_MAX - WalkAttacked(*ram, INT_MAX, &bench.chain);
  bool table = false;
  bool buffer = false;
  for (int instant = 0; instant < length; instant += 1 + length / kInstants) {
    WalkAttacked(*ram, instant, &bench.chain);
    CHECK(bench.chain.readable.count == 0 && bench.chain.writable.count == 1);
    const iovec& piece = bench.chain.writable.items[0];
    table |= Is(piece, bench.host(kBuffers), 1);
    buffer |= Is(piece, bench.host(kIndirectTable), 16);
  }
  CHECK(table && buffer);
}

void RefusesWrap() {
  Bench bench;
  bench.driver.DescribeChain(0, {{UINT64_MAX - 7, 16}});
  CHECK(bench.Walk() == ChainStatus::kBadBuffer);
  bench.driver.DescribeChain(0, {{UINT64_MAX, UINT32_MAX}});
  CHECK(bench.Walk() == ChainStatus::kBadBuffer);
}

/// Descriptor 1 of a table at the end of the address space would lie at 0, which is RAM.
void RefusesTableWrap() {
  Bench bench;
  *bench.driver.At<vmm::Descriptor>(0) = {kBuffers, 1, 0, 0};
  CHECK(vmm::WalkChain(*bench.memory->Snapshot(), UINT64_MAX - 15, kSize, 1, true, &bench.chain) ==
        ChainStatus::kBadTable);
}

void RefusesHoles() {
  Bench bench;
  for (const Buffer& buffer :
       {Buffer{kRamBytes - 1, 2}, Buffer{kRamBytes, 1}, Buffer{kHighGpa - 1, 1},
        Buffer{kHighGpa - 1, 2}, Buffer{kRamBytes - 1, kHoleBytes + 2},
        Buffer{kHighGpa + kHighBytes - 1, 2}, Buffer{0, UINT32_MAX}}) {
    bench.driver.DescribeChain(0, {buffer});
    CHECK(bench.Walk() == ChainStatus::kBadBuffer);
  }
  bench.driver.DescribeChain(0, {{kRamBytes - 1, 1}, {kHighGpa, 1, true}});
  CHECK(bench.Walk() == ChainStatus::kOk);
}

void SplitsAtRegionEdges() {
  Bench bench;
  CHECK(bench.memory->Add({kRamBytes, kHoleBytes}) == 0);
  bench.driver.DescribeChain(0, {{kRamBytes - 1, kHoleBytes + 2, true}});
  CHECK(bench.Walk() == ChainStatus::kOk);
  CHECK(bench.chain.writable.count == 3);
  CHECK(bench.chain.writable.items[1].iov_len == kHoleBytes);
}

void TakesEmptyBuffers() {
  Bench bench;
  bench.driver.DescribeChain(0, {{kBuffers, 0}, {UINT64_MAX, 0}, {kBuffers, 0, true}});
  CHECK(bench.Walk() == ChainStatus::kOk);
  CHECK(bench.chain.readable.count == 0 && bench.chain.writable.count == 0);
}

void EndsLoops() {
  Bench bench;
  for (uint16_t i = 0; i < kSize; ++i)
    bench.driver.Describe(i, {kBuffers, 0, kDescriptorNext, static_cast<uint16_t>((i + 1) % 8)});
  CHECK(bench.Walk() == ChainStatus::kLoop);
  bench.driver.Describe(0, {kBuffers, 1, kDescriptorNext, 0});
  CHECK(bench.Walk() == ChainStatus::kLoop);
}

void TakesTheLongest() {
  Bench bench;
  for (uint16_t i = 0; i < kSize; ++i) bench.driver.DescribeChain(i, {{kBuffers, 1}});
  for (uint16_t i = 0; i < kSize - 1; ++i)
    bench.driver.Describe(i, {kBuffers, 1, kDescriptorNext, static_cast<uint16_t>(i + 1)});
  CHECK(bench.Walk() == ChainStatus::kOk && bench.chain.readable.count == kSize);
}

void RefusesBadNext() {
  Bench bench;
  CHECK(bench.Walk(kSize) == ChainStatus::kBadIndex);
  for (const uint16_t next : {kSize, uint16_t{UINT16_MAX}}) {
    bench.driver.Describe(0, {kBuffers, 1, kDescriptorNext, next});
    CHECK(bench.Walk() == ChainStatus::kBadIndex);
  }
}

void RefusesOrder() {
  Bench bench;
  bench.driver.DescribeChain(0, {{kBuffers, 1}, {kBuffers, 1, true}, {kBuffers, 1}});
  CHECK(bench.Walk() == ChainStatus::kBadOrder);
}

void FollowsIndirect() {
  Bench bench;
  bench.driver.DescribeIndirect(1, kIndirectTable, {{kBuffers, 1}, {kBuffers + 1, 2, true}});
  bench.driver.Describe(0, {kBuffers + 8, 4, kDescriptorNext, 1});
  CHECK(bench.Walk() == ChainStatus::kOk);
  CHECK(bench.chain.readable.count == 2 && bench.chain.writable.count == 1);
  CHECK(bench.Walk(0, false) == ChainStatus::kBadIndirect);
}

void RefusesBadIndirect() {
  Bench bench;
  const auto status = [&](uint64_t gpa, uint32_t len, int flags) {
    bench.driver.Describe(0, {gpa, len, static_cast<uint16_t>(kDescriptorIndirect | flags), 1});
    return bench.Walk();
  };
  bench.driver.DescribeIndirect(0, kIndirectTable, {{kBuffers, 1}, {kBuffers, 1}});
  CHECK(status(kIndirectTable, 32, kDescriptorNext) == ChainStatus::kBadIndirect);
  CHECK(status(kIndirectTable, 31, 0) == ChainStatus::kBadIndirect);
  CHECK(status(kIndirectTable, 0, 0) == ChainStatus::kBadIndirect);
  CHECK(status(kIndirectTable, 16 * (kSize + 1), 0) == ChainStatus::kBadIndirect);
  CHECK(status(kIndirectTable, 16, 0) == ChainStatus::kBadIndex);  // its first goes on to a second
  CHECK(status(kRamBytes, 32, 0) == ChainStatus::kBadTable);
  CHECK(status(kRamBytes - 16, 32, 0) == ChainStatus::kOk);  // an empty one: its second is unread
  CHECK(status(kIndirectTable, 32, vmm::kDescriptorWrite) == ChainStatus::kOk);  // §2.7.5.3.2
  *bench.driver.At<vmm::Descriptor>(kIndirectTable) = {kIndirectTable, 32, kDescriptorIndirect, 0};
  CHECK(status(kIndirectTable, 32, 0) == ChainStatus::kBadIndirect);
}

/// Direct and indirect descriptors together are no more than the queue has.
void CountsIndirect() {
  Bench bench(2);
  bench.driver.DescribeIndirect(1, kIndirectTable, {{kBuffers, 1}, {kBuffers, 1}});
  CHECK(bench.Walk(1) == ChainStatus::kOk);
  bench.driver.Describe(0, {kBuffers, 1, kDescriptorNext, 1});
  CHECK(bench.Walk(0) == ChainStatus::kLoop);
}

void BoundsSegments() {
  constexpr uint16_t kMany = 2048;
  Bench bench(kMany);
  const auto chain = [&](uint16_t count) {
    for (uint16_t i = 0; i < count; ++i)
      bench.driver.Describe(i, {kBuffers, 1, kDescriptorNext, static_cast<uint16_t>(i + 1)});
    bench.driver.Describe(static_cast<uint16_t>(count - 1), {kBuffers, 1, 0, 0});
    return bench.Walk();
  };
  CHECK(chain(vmm::kChainSegmentsMax) == ChainStatus::kOk);
  CHECK(chain(vmm::kChainSegmentsMax + 1) == ChainStatus::kBadBuffer);
}

/// RAM of 8 MiB, again and again: the sum fits no used length.
void BoundsBytes() {
  constexpr uint32_t kBufferBytes = 8 << 20;
  constexpr uint16_t kCount = 512;
  Bench bench(kCount);
  CHECK(bench.memory->Add({uint64_t{1} << 32, kBufferBytes}) == 0);
  for (uint16_t i = 0; i < kCount; ++i)
    bench.driver.Describe(
        i, {uint64_t{1} << 32, kBufferBytes, kDescriptorNext, static_cast<uint16_t>(i + 1)});
  bench.driver.Describe(kCount - 1, {uint64_t{1} << 32, kBufferBytes, 0, 0});
  CHECK(bench.Walk() == ChainStatus::kTooLong);
  bench.driver.Describe(kCount - 1, {uint64_t{1} << 32, kBufferBytes - 1, 0, 0});
  CHECK(bench.Walk() == ChainStatus::kOk);
}

}  // namespace

int main() {
  Test("a buffer to be written must lie where one may write", RefusesToWriteWhereItMayNot);
  Test("a chain is what may be read, then what may be written", TellsDirections);
  Test("a descriptor that changes meanwhile is taken as it was checked", ReadsOnce);
  Test("a buffer that wraps around the address space is refused", RefusesWrap);
  Test("a table that wraps around the address space is refused", RefusesTableWrap);
  Test("a buffer that is not RAM wholly is refused", RefusesHoles);
  Test("a buffer across regions is split", SplitsAtRegionEdges);
  Test("empty buffers are legal, wherever they are", TakesEmptyBuffers);
  Test("loops end, also of empty buffers", EndsLoops);
  Test("a chain may have all descriptors of the queue", TakesTheLongest);
  Test("an index beyond the table is refused", RefusesBadNext);
  Test("a readable buffer after a writable one is refused", RefusesOrder);
  Test("an indirect table ends a chain, if negotiated", FollowsIndirect);
  Test("malformed indirect descriptors are refused", RefusesBadIndirect);
  Test("indirect descriptors count as direct ones do", CountsIndirect);
  Test("a chain of more pieces than one readv takes is refused", BoundsSegments);
  Test("a chain of more bytes than a used length can say is refused", BoundsBytes);
}
