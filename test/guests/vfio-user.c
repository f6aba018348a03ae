/// Drives the device of test/e2e/programs/vfio-user.c: registers, a BAR that is mapped, MSI-X, and
/// copies of its RAM; then has the server fail as it says, and looks what is left.
#include "virtio.h"

enum { COMMAND = 4, BAR0 = 0x10, BAR2 = 0x18, MSIX = 0x40, VENDOR = 0x50, IDENTITY = 0x7e571af4 };
enum { SCRATCH = 4, SOURCE = 8, TARGET = 16, LENGTH = 24, COPY = 28, RAISE = 32, RANGES = 36 };
enum {
  SHARED = 40,
  FAIL = 44,
  RESETS = 48,
  HOW = 52,
  TABLE = 0x1000,
  MAPPED = 0x8000,
  DATA_BYTES = 0x3000
};
enum { MEMORY = 2, MASTER = 4, LAPIC_MESSAGES = 0xfee00000u };

static const u64 bar0 = 0xd0000000, bar2 = 0xd0100000;
static u8 *source, *target;

static u32 find(void) {
  for (u32 slot = 1; slot < 32; slot++)
    if (pci_read(slot, 0) == IDENTITY) return slot;
  return 0;
}

static void place(u32 slot, u32 command) {
  pci_write(slot, COMMAND, 0);
  pci_write(slot, BAR0, (u32)bar0);
  pci_write(slot, BAR0 + 4, 0);
  pci_write(slot, BAR2, (u32)bar2);
  pci_write(slot, BAR2 + 4, 0);
  pci_write(slot, COMMAND, command);
}

static void route(u32 slot) {
  for (u32 i = 0; i < 4; i++) {
    const u64 entry = bar0 + TABLE + 16 * i;
    write32(entry, LAPIC_MESSAGES);
    write32(entry + 4, 0);
    write32(entry + 8, 0x40 + i);
    write32(entry + 12, 0);
  }
  pci_write(slot, MSIX, 0x80000000u);
}

static u32 wrong_bytes(void) {
  u32 wrong = 0;
  for (u32 i = 0; i < DATA_BYTES; i++) wrong += (target[i] ^ source[i]) != 0xff;
  return wrong;
}

static u32 copy(u64 to) {
  write32(bar0 + SOURCE, (u32)(u64)source);
  write32(bar0 + SOURCE + 4, 0);
  write32(bar0 + TARGET, (u32)to);
  write32(bar0 + TARGET + 4, (u32)(to >> 32));
  write32(bar0 + LENGTH, DATA_BYTES);
  write32(bar0 + COPY, 1);
  return read32(bar0 + COPY);
}

static void look(u32 slot) {
  write32(bar0 + SCRATCH, 0x12345678);
  say("registers %x %x %x %x\n", (u64)read32(bar0), (u64)read32(bar0 + SCRATCH),
      (u64)read16(bar0 + SCRATCH + 2), (u64)read8(bar0 + SCRATCH));
  pci_write(slot, VENDOR + 4, 0xcafef00d);
  say("vendor %x, table of %u\n", (u64)pci_read(slot, VENDOR + 4),
      (u64)(pci_read(slot, MSIX) >> 16 & 0x7ff) + 1);
  write32(bar2 + MAPPED, 0xfeedbeef);  // without an exit
  write32(bar2 + 4, 0x600dcafe);       // with one
  say("shared %x %x %x\n", (u64)read32(bar0 + SHARED), (u64)read32(bar2 + MAPPED),
      (u64)read32(bar2 + 4));
}

static void interrupt(u32 slot) {
  route(slot);
  u32 seen = interrupts();
  for (u32 n = 0; n < 4; n++) {
    write32(bar0 + RAISE, n);
    seen = wait_for_interrupt(seen);
  }
  say("vectors %u %u %u %u\n", (u64)interrupt_count[0], (u64)interrupt_count[1],
      (u64)interrupt_count[2], (u64)interrupt_count[3]);
}

void main(void) {
  const u32 slot = find();
  if (!slot) return say("none\n");
  enable_interrupts();
  source = allocate(DATA_BYTES);
  target = allocate(DATA_BYTES);
  for (u32 i = 0; i < DATA_BYTES; i++) source[i] = (u8)(i * 7 + (i >> 8));
  place(slot, MEMORY);
  look(slot);
  interrupt(slot);
  say("copies without mastering: %u\n", (u64)copy((u64)target));
  pci_write(slot, COMMAND, MEMORY | MASTER);
  const u32 seen = interrupts();
  const u32 done = copy((u64)target);
  wait_for_interrupt(seen);
  say("copies: %u, wrong %u; outside RAM: %u\n", (u64)done, (u64)wrong_bytes(),
      (u64)copy(0xb0000000));
  say("ranges %u, resets %u\n", (u64)read32(bar0 + RANGES), (u64)read32(bar0 + RESETS));
  const u32 how = read32(bar0 + HOW);
  if (how) {
    write32(bar0 + FAIL, how);
    say("then %x %x %x\n", (u64)read32(bar0), (u64)pci_read(slot, VENDOR + 4),
        (u64)pci_read(slot, 0));
  }
  say("done\n");
}
