#pragma once
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "../../native/memory/guest_memory.h"
#include "../../native/virtio/chain.h"

/// What the targets of rings share: little RAM with a hole, and descriptors drawn from the input.

/// An invariant of ours that no guest may break.
#define HOLDS(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                        \
    }                                                                      \
  } while (false)

constexpr uint64_t kLowBytes = 0x4000, kHighGpa = 0x6000, kHighBytes = 0x1000;
constexpr uint64_t kEndGpa = kHighGpa + kHighBytes;

/// RAM that is zeroed for each input, not mapped anew, which would take most of the time.
inline std::shared_ptr<vmm::GuestMemory> ZeroedRam() {
  static const std::shared_ptr<vmm::GuestMemory> memory = [] {
    auto made = std::make_shared<vmm::GuestMemory>();
    HOLDS(made->Add({0, kLowBytes}) == 0 && made->Add({kHighGpa, kHighBytes}) == 0);
    return made;
  }();
  for (const vmm::Region& region : memory->Snapshot()->all())
    std::memset(region.host.get(), 0, region.size_bytes);
  return memory;
}

/// Once in some thirty times: rare enough that most chains have no fault, or one.
inline bool Rarely(FuzzedDataProvider* input) {
  return input->ConsumeIntegralInRange<uint8_t>(0, 31) == 31;
}

/// A descriptor at `index` of a table of `entries`: mostly one of a legal chain.
inline vmm::Descriptor DrawDescriptor(FuzzedDataProvider* input, uint16_t index, uint16_t entries) {
  vmm::Descriptor desc{};
  desc.gpa = input->ConsumeIntegralInRange<uint64_t>(0, kLowBytes - 1);
  desc.len = input->ConsumeIntegralInRange<uint32_t>(0, 64);
  desc.flags = input->ConsumeIntegralInRange<uint16_t>(0, 3);
  desc.next = static_cast<uint16_t>((index + 1) % entries);
  if (input->ConsumeIntegralInRange<uint8_t>(0, 7) == 7) {  // an indirect table, which is RAM, too
    desc.flags = vmm::kDescriptorIndirect;
    desc.len = 16 * input->ConsumeIntegralInRange<uint32_t>(1, entries);
  }
  if (Rarely(input)) desc.gpa = input->ConsumeIntegralInRange<uint64_t>(kLowBytes - 64, kEndGpa);
  if (Rarely(input)) desc.gpa = input->ConsumeIntegral<uint64_t>();
  if (Rarely(input)) desc.len = input->ConsumeIntegral<uint32_t>();
  if (Rarely(input)) desc.flags = input->ConsumeIntegral<uint16_t>();
  if (Rarely(input)) desc.next = input->ConsumeIntegral<uint16_t>();
  return desc;
}

/// Fills a table of `entries` at `gpa`, as far as it is RAM and the input goes.
inline void DrawTable(FuzzedDataProvider* input, const vmm::GuestMemory& memory, uint64_t gpa,
                      uint16_t entries) {
  for (uint16_t i = 0; i < entries && input->remaining_bytes() > 0; ++i) {
    const vmm::Descriptor desc = DrawDescriptor(input, i, entries);
    static_cast<void>(memory.CopyIn(gpa + uint64_t{16} * i, &desc, sizeof(desc)));
  }
}

/// All of a list is RAM. Returns how many bytes it is.
inline uint64_t CheckIsRam(const vmm::Regions& regions, const vmm::Segments& segments) {
  uint64_t bytes = 0;
  HOLDS(segments.count <= vmm::kChainSegmentsMax);
  for (const iovec& piece : segments) {
    const auto* start = static_cast<const std::byte*>(piece.iov_base);
    bool inside = false;
    for (const vmm::Region& region : regions.all()) {
      const std::byte* host = region.host.get();
      inside |= start >= host && start < host + region.size_bytes &&
                piece.iov_len <= static_cast<size_t>(host + region.size_bytes - start);
    }
    HOLDS(inside && piece.iov_len > 0);
    bytes += piece.iov_len;
  }
  return bytes;
}

inline void CheckChain(const vmm::Regions& regions, const vmm::Chain& chain) {
  HOLDS(CheckIsRam(regions, chain.readable) + CheckIsRam(regions, chain.writable) <=
        vmm::kChainBytesMax);
}
