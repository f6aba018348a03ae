/// Says which processors come and go, and gives up every one that it is asked for, at once.
#include "guest.h"

enum { kPhysBits = 36, kProcessors = 4 };
enum { kInserted = 2, kToRemove = 4, kEject = 8 };

/// The registers of platform devices, at the top of what the CPUs can address.
static const u64 kEvents = (1ull << kPhysBits) - (1088 << 10);
static const u64 kSelect = kEvents + 0x10, kStatus = kEvents + 0x14;

/// The last GiB of the address space, to itself.
static void map_registers(void) {
  const u64 base = (1ull << kPhysBits) - (1ull << 30);
  u64* directory = allocate(4096);
  for (u64 i = 0; i < 512; ++i) directory[i] = (base + (i << 21)) | 0x83;
  u64* pml4;
  __asm__ volatile("mov %%cr3, %0" : "=r"(pml4));
  u64* pdpt = (u64*)(pml4[0] & ~0xfffull);
  pdpt[base >> 30] = (u64)directory | 3;
}

static void look(u64 processor) {
  write32(kSelect, (u32)processor);
  const u8 status = read8(kStatus);
  if (status & kInserted) {
    say("+%u ", processor);
    write8(kStatus, kInserted);
  }
  if (status & kToRemove) {
    write8(kStatus, kToRemove);
    write8(kStatus, kEject);
    say("-%u ", processor);
  }
}

void main(void) {
  map_registers();
  say("up ");
  for (;;)
    if (read8(kEvents) & 1)
      for (u64 i = 0; i < kProcessors; ++i) look(i);
}
