/// Asks the clock, strokes the watchdog, and says by pvpanic that it panicked. Then it waits for
/// what becomes of it.
#include "virtio.h"

enum { PVPANIC = 0x00111b36, COMMAND = 4, MEMORY = 2, BAR0 = 0x10, PANICKED = 1, READ = 1 };

static u8* buffer;

static int start(u32 type, struct queue* queue) {
  struct device device;
  if (!find_device(type, 0, &device) || !accept_features(&device, F_VERSION_1)) return 0;
  set_up_queue(&device, 0, 0, queue);
  set_status(&device, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
  return 1;
}

static void ask_clock(void) {
  struct queue queue;
  if (!start(VIRTIO_RTC, &queue)) return say("no clock\n");
  memset(buffer, 0, 16);
  buffer[0] = READ;
  queue.table[0] = (struct descriptor){(u64)buffer, 16, NEXT, 1};
  queue.table[1] = (struct descriptor){(u64)buffer + 16, 16, WRITE, 0};
  const long written = request(&queue, 0);
  const u64 ns = read32((u64)buffer + 24) | (u64)read32((u64)buffer + 28) << 32;
  say("%u bytes, status %u, %u s\n", (u64)written, (u64)buffer[16], ns / 1000000000);
}

static void stroke_watchdog(void) {
  struct queue queue;
  if (!start(VIRTIO_WATCHDOG, &queue)) return say("no watchdog\n");
  queue.table[0] = (struct descriptor){(u64)buffer + 32, 1, WRITE, 0};
  const long written = request(&queue, 0);
  say("%u bytes of %u\n", (u64)written, (u64)buffer[32]);
}

static void panic(void) {
  u32 slot = 1;
  while (slot < 32 && pci_read(slot, 0) != PVPANIC) slot++;
  if (slot == 32) return say("no pvpanic\n");
  pci_write(slot, COMMAND, MEMORY);
  const u64 bar = pci_read(slot, BAR0) & ~15u;
  say("events %u\n", (u64)read8(bar));
  write8(bar, PANICKED);
}

void main(void) {
  buffer = allocate(64);
  ask_clock();
  stroke_watchdog();
  panic();
  for (;;) __asm__ volatile("hlt");
}
