/// Fuzz target: the walk of a descriptor chain. The guest controls every byte of RAM; no content
/// may make the walk leave it, hang, or hand out what is not RAM.

#include "ring_input.h"

namespace {

constexpr uint64_t kTableGpa = 0x100, kIndirectGpa = 0x2000;
constexpr uint16_t kEntriesMax = 64;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  const auto memory = ZeroedRam();
  const auto queue_size = static_cast<uint16_t>(1 << input.ConsumeIntegralInRange<uint16_t>(0, 6));
  const auto head = input.ConsumeIntegralInRange<uint16_t>(0, queue_size);
  const bool indirect = input.ConsumeBool();
  uint64_t table = kTableGpa;
  if (Rarely(&input)) table = input.ConsumeIntegral<uint64_t>() & ~uint64_t{15};
  if (Rarely(&input))
    table = kLowBytes - 16 * input.ConsumeIntegralInRange<uint64_t>(0, queue_size);
  DrawTable(&input, *memory, table, queue_size);
  DrawTable(&input, *memory, kIndirectGpa, kEntriesMax);

  const auto regions = memory->Snapshot();
  vmm::Chain chain;
  const vmm::ChainStatus status =
      vmm::WalkChain(*regions, table, queue_size, head, indirect, &chain);
  if (status == vmm::ChainStatus::kOk) CheckChain(*regions, chain);
  return 0;
}
