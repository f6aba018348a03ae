/// Puts the shared memory of two file systems where it can reach it, one after the other in one
/// place, and reads and writes there.
#include "virtio.h"

enum { CAPABILITIES = 0x34, COMMAND = 4, BAR2 = 0x18, SHARED_MEMORY = 8 };
#define WINDOW 0xd8000000ull

static u64 shared_bytes(const struct device* device) {
  for (u32 at = pci_read(device->slot, CAPABILITIES) & 0xff; at;
       at = pci_read(device->slot, at + 1) & 0xff) {
    if ((pci_read(device->slot, at) & 0xff) != 9) continue;
    if ((pci_read(device->slot, at + 3) & 0xff) != SHARED_MEMORY) continue;
    if ((pci_read(device->slot, at + 4) & 0xff) != 2) return 0;
    return pci_read(device->slot, at + 12) | (u64)pci_read(device->slot, at + 20) << 32;
  }
  return 0;
}

static void move(const struct device* device, u64 to) {
  pci_write(device->slot, BAR2, (u32)to);
  pci_write(device->slot, BAR2 + 4, (u32)(to >> 32));
}

void main(void) {
  struct device devices[2];
  for (u32 i = 0; i < 2; i++)
    if (!find_device(VIRTIO_FS, i, &devices[i])) return say("no device\n");
  const u64 low = pci_read(devices[0].slot, BAR2), high = pci_read(devices[0].slot, BAR2 + 4);
  say("%u bytes, flags %u\n", shared_bytes(&devices[0]), low & 15);
  say("%u bytes, above 4 GiB %u\n", shared_bytes(&devices[1]), (u64)(high != 0));

  move(&devices[0], WINDOW);
  say("first %x\n", (u64)read8(WINDOW));
  write8(WINDOW + 4096, 0x77);
  move(&devices[0], (high << 32) | (low & ~15ull));
  move(&devices[1], WINDOW);
  say("second %x\n", (u64)read8(WINDOW));
  move(&devices[1], 0);  // where RAM is: nowhere
  say("RAM %x, nothing %x\n", (u64)read8(0x1000), (u64)read8(WINDOW));
}
