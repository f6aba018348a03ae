/// Reads and writes every register by which devices, processors and memory come and go, at every
/// place and width and with every value of a byte, over and over.
#include "guest.h"

/// Of the event device, of processors, of modules of memory, of PCI slots.
static const struct {
  u64 offset, size_bytes;
} BLOCKS[] = {{0, 1}, {0x10, 0xc}, {0x20, 0x18}, {0x40, 0x10}};

/// Each says which processor, module or segment the registers beside it are about.
static const u64 SELECTORS[] = {0x10, 0x20, 0x4c};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void write64(u64 gpa, u64 value) { *(volatile u64*)gpa = value; }
static u64 read64(u64 gpa) { return *(volatile u64*)gpa; }

static void write_all_values(u64 gpa) {
  for (u64 value = 0; value < 256; value++) {
    const u64 all = value * 0x0101010101010101;
    write8(gpa, (u8)all);
    write16(gpa, (u16)all);
    write32(gpa, (u32)all);
    write64(gpa, all);
  }
}

static u64 read_all_widths(u64 gpa) { return read8(gpa) + read16(gpa) + read32(gpa) + read64(gpa); }

void main(void) {
  const u64 registers = platform_registers();
  for (u64 pass = 1;; pass++) {
    u64 sum = 0;
    for (u64 block = 0; block < COUNT(BLOCKS); block++)
      for (u64 i = 0; i < BLOCKS[block].size_bytes; i++) {
        const u64 gpa = registers + BLOCKS[block].offset + i;
        for (u64 n = 0; n < COUNT(SELECTORS); n++) write32(registers + SELECTORS[n], pass & 1);
        sum += read_all_widths(gpa);
        write_all_values(gpa);
      }
    say("pass %u reads %x\n", pass, sum);
  }
}
