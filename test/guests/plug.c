/// Lets go of every PCI slot that it is asked for, and says what it finds in one that is plugged,
/// with no driver for any: for a VM of 36 physical address bits.
#include "guest.h"

enum { PLUGGED = 0, WANTED = 4, EJECT = 8 };

/// Of the last MiB but 64 KiB, where registers of platform devices are.
#define REGISTERS ((1ull << 36) - (64 << 10) - (1 << 20) + 0x40)
#define LARGE_PAGE (2ull << 20)

/// The pages that every guest has end below it.
static void map_registers(void) {
  u64* pml4;
  __asm__ volatile("movq %%cr3, %0" : "=r"(pml4));
  u64* pdpt = (u64*)(pml4[0] & ~0xfffull);
  u64* directory = allocate(4096);
  directory[(REGISTERS >> 21) & 511] = (REGISTERS & ~(LARGE_PAGE - 1)) | 0x83;
  pdpt[REGISTERS >> 30] = (u64)directory | 3;
}

static u32 identity(u32 slot) {
  outl(0xcf8, 0x80000000 | slot << 11);
  return inl(0xcfc);
}

void main(void) {
  map_registers();
  say("ready\n");
  for (;;) {
    const u32 plugged = read32(REGISTERS + PLUGGED);
    for (u32 slot = 1; slot < 32; slot++)
      if (plugged >> slot & 1) say("slot %u has %x\n", (u64)slot, (u64)identity(slot));
    const u32 wanted = read32(REGISTERS + WANTED);
    if (wanted) write32(REGISTERS + EJECT, wanted);
    for (u32 i = 0; i < 2000; i++) __asm__ volatile("pause");
  }
}
