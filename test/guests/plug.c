/// Lets go of every PCI slot and processor that it is asked for, and says what it finds in a slot
/// that is plugged: for a VM of 36 physical address bits. It drives a disk, the newest, with
/// several requests at a time and by interrupts, and lets go of it with requests under way.
#include "virtio.h"

enum { PCI_HOTPLUG = 0x40, PLUGGED = 0, WANTED = 4, EJECT = 8 };
enum { CPU_SELECT = 0x10, CPU_STATUS = 0x14, CPU_TO_REMOVE = 4, CPU_EJECT = 8, CPUS = 4 };
enum { CPU_EVENT = 1 };
enum { CAPACITY = 0, SECTOR_BYTES = 512, IN_FLIGHT = 16, CONFIG_MSIX = 1 };
enum { DATA_BYTES = 1 << 20, DATA_SECTORS = DATA_BYTES / SECTOR_BYTES };

struct header {
  u32 type, reserved;
  u64 sector;
};

static u64 registers;
static struct device disk;
static struct queue queue;
static u32 disk_slot;  // 0 is none
static u32 config_changes;
static struct header* headers;
static u8* data;
static u8* statuses;

static void offer_read(u32 n, u64 sector, u32 sectors) {
  const u16 first = (u16)(3 * n);
  headers[n] = (struct header){0, 0, sector};
  statuses[n] = 0xff;
  queue.table[first] = (struct descriptor){(u64)&headers[n], 16, NEXT, first + 1};
  queue.table[first + 1] =
      (struct descriptor){(u64)data, sectors * SECTOR_BYTES, NEXT | WRITE, first + 2};
  queue.table[first + 2] = (struct descriptor){(u64)&statuses[n], 1, WRITE, 0};
  offer(&queue, first);
}

/// Reads all of the disk; says how many sectors there were, and what their first bytes add up to.
static void read_disk(void) {
  const u64 capacity = read32(disk.config + CAPACITY);
  u64 sum = 0, failed = 0;
  u32 seen = interrupts();
  for (u64 sector = 0; sector < capacity; sector += DATA_SECTORS) {
    const u64 left = capacity - sector;
    const u32 sectors = left < DATA_SECTORS ? (u32)left : DATA_SECTORS;
    offer_read(0, sector, sectors);
    if (publish(&queue, 1)) kick(&queue);
    while (queue.seen == used_index(&queue))
      if (expect_interrupt(&queue)) seen = wait_for_interrupt(seen);
    queue.seen++;
    failed += statuses[0] != 0;
    for (u32 i = 0; i < sectors; i++) sum += data[i * SECTOR_BYTES];
  }
  say("slot %u reads %u sectors, sum %u, failed %u\n", (u64)disk_slot, capacity, sum, failed);
}

static void start_disk(u32 slot) {
  for (u32 nth = 0; find_device(VIRTIO_BLOCK, nth, &disk); nth++)
    if (disk.slot == slot) break;
  if (disk.slot != slot || !accept_features(&disk, F_VERSION_1 | F_EVENT_IDX)) return;
  set_up_queue(&disk, 0, 64, &queue);
  write16(disk.common + CONFIG_VECTOR, CONFIG_MSIX);
  enable_msix(&disk);
  disk_slot = slot;
  config_changes = interrupt_count[CONFIG_MSIX];
  set_status(&disk, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
  read_disk();
}

static void let_go(u32 wanted) {
  if (disk_slot && wanted >> disk_slot & 1) {
    disk_slot = 0;
    const u64 capacity = read32(disk.config + CAPACITY);
    for (u32 n = 0; n < IN_FLIGHT; n++)
      offer_read(n, 0, capacity < DATA_SECTORS ? (u32)capacity : DATA_SECTORS);
    publish(&queue, 1);
    kick(&queue);
  }
  write32(registers + EJECT, wanted);
}

static void let_go_of_cpus(u64 platform) {
  for (u32 cpu = 1; cpu < CPUS; cpu++) {
    write32(platform + CPU_SELECT, cpu);
    if (read8(platform + CPU_STATUS) & CPU_TO_REMOVE) write8(platform + CPU_STATUS, CPU_EJECT);
  }
}

void main(void) {
  const u64 platform = platform_registers();
  registers = platform + PCI_HOTPLUG;
  enable_interrupts();
  headers = allocate(sizeof(struct header) * IN_FLIGHT);
  data = allocate(DATA_BYTES);
  statuses = allocate(IN_FLIGHT);
  say("ready\n");
  for (;;) {
    const u32 plugged = read32(registers + PLUGGED);
    for (u32 slot = 1; slot < 32; slot++) {
      if (!(plugged >> slot & 1)) continue;
      const u32 identity = pci_read(slot, 0);
      say("slot %u has %x\n", (u64)slot, (u64)identity);
      if (identity == ((0x1040 + VIRTIO_BLOCK) << 16 | 0x1af4)) start_disk(slot);
    }
    const u32 wanted = read32(registers + WANTED);
    if (wanted) let_go(wanted);
    if (disk_slot && interrupt_count[CONFIG_MSIX] != config_changes) {
      config_changes = interrupt_count[CONFIG_MSIX];
      read_disk();
    }
    if (read8(platform) & CPU_EVENT) let_go_of_cpus(platform);
    for (u32 i = 0; i < 2000; i++) __asm__ volatile("pause");
  }
}
