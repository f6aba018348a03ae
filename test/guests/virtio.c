#include "virtio.h"

enum { PCI_ADDRESS = 0xcf8, PCI_DATA = 0xcfc, COMMAND = 4, CAPABILITIES = 0x34, BAR0 = 0x10 };
enum { VENDOR_CAPABILITY = 9, MSIX_CAPABILITY = 17 };
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4 };
enum { LAPIC_MESSAGES = 0xfee00000 };
#define BARS_FROM 0xd0000000ull
#define BAR_BYTES 0x80000ull

u32 pci_read(u32 slot, u32 offset) {
  outl(PCI_ADDRESS, 0x80000000u | slot << 11 | (offset & ~3u));
  return inl(PCI_DATA) >> (8 * (offset & 3));
}

void pci_write(u32 slot, u32 offset, u32 value) {
  outl(PCI_ADDRESS, 0x80000000u | slot << 11 | offset);
  outl(PCI_DATA, value);
}

static void read_capabilities(struct device* device) {
  for (u32 at = pci_read(device->slot, CAPABILITIES) & 0xff; at;
       at = pci_read(device->slot, at + 1) & 0xff) {
    if ((pci_read(device->slot, at) & 0xff) != VENDOR_CAPABILITY) continue;
    const u64 place = device->bar + pci_read(device->slot, at + 8);
    switch (pci_read(device->slot, at + 3) & 0xff) {
      case CAP_COMMON:
        device->common = place;
        break;
      case CAP_ISR:
        device->isr = place;
        break;
      case CAP_DEVICE:
        device->config = place;
        break;
      case CAP_NOTIFY:
        device->notify = place;
        device->notify_multiplier = pci_read(device->slot, at + 16);
        break;
    }
  }
}

int find_device(u32 type, u32 nth, struct device* device) {
  for (u32 slot = 1; slot < 32; slot++) {
    if (pci_read(slot, 0) != ((0x1040 + type) << 16 | 0x1af4)) continue;
    if (nth--) continue;
    *device = (struct device){.slot = slot, .bar = BARS_FROM + slot * BAR_BYTES};
    pci_write(slot, COMMAND, 0);
    pci_write(slot, BAR0, (u32)device->bar);
    if (pci_read(slot, BAR0) & 4) pci_write(slot, BAR0 + 4, 0);
    pci_write(slot, COMMAND, 6);  // memory and bus master
    read_capabilities(device);
    reset_device(device);
    return 1;
  }
  return 0;
}

void set_status(const struct device* device, u8 status) { write8(device->common + STATUS, status); }
u8 status_of(const struct device* device) { return read8(device->common + STATUS); }

void reset_device(struct device* device) {
  set_status(device, 0);
  while (status_of(device) != 0) {
  }
}

u64 offered_features(const struct device* device) {
  u64 features = 0;
  for (u32 half = 0; half < 2; half++) {
    write32(device->common + DEVICE_FEATURE_SELECT, half);
    features |= (u64)read32(device->common + DEVICE_FEATURE) << (32 * half);
  }
  return features;
}

int accept_features(const struct device* device, u64 features) {
  set_status(device, ACKNOWLEDGE);
  set_status(device, ACKNOWLEDGE | DRIVER);
  for (u32 half = 0; half < 2; half++) {
    write32(device->common + DRIVER_FEATURE_SELECT, half);
    write32(device->common + DRIVER_FEATURE, (u32)(features >> (32 * half)));
  }
  set_status(device, ACKNOWLEDGE | DRIVER | FEATURES_OK);
  return (status_of(device) & FEATURES_OK) != 0;
}

static void write_address(u64 at, const volatile void* ring) {
  write32(at, (u32)(u64)ring);
  write32(at + 4, (u32)((u64)ring >> 32));
}

void set_up_queue(const struct device* device, u16 index, u16 size, struct queue* queue) {
  const u64 common = device->common;
  write16(common + QUEUE_SELECT, index);
  if (size) write16(common + QUEUE_SIZE, size);
  size = read16(common + QUEUE_SIZE);
  *queue = (struct queue){
      .size = size,
      .index = index,
      .table = allocate(sizeof(struct descriptor) * size),
      .avail = allocate(6 + 2 * size),
      .used = allocate(6 + 8 * size),
      .notify_gpa = device->notify + read16(common + QUEUE_NOTIFY_OFF) * device->notify_multiplier,
  };
  write_address(common + QUEUE_DESC, queue->table);
  write_address(common + QUEUE_DRIVER, queue->avail);
  write_address(common + QUEUE_DEVICE, queue->used);
  write16(common + QUEUE_VECTOR, index);
  write16(common + QUEUE_ENABLE, 1);
}

void enable_msix(const struct device* device) {
  for (u32 at = pci_read(device->slot, CAPABILITIES) & 0xff; at;
       at = pci_read(device->slot, at + 1) & 0xff) {
    const u32 head = pci_read(device->slot, at);
    if ((head & 0xff) != MSIX_CAPABILITY) continue;
    const u32 entries = (head >> 16 & 0x7ff) + 1;
    const u64 table = device->bar + (pci_read(device->slot, at + 4) & ~7u);
    for (u32 i = 0; i < entries && i < 16; i++) {
      write32(table + 16 * i, LAPIC_MESSAGES);
      write32(table + 16 * i + 4, 0);
      write32(table + 16 * i + 8, 0x40 + i);
      write32(table + 16 * i + 12, 0);
    }
    pci_write(device->slot, at, head | 0x80000000u);
  }
}

volatile struct used_entry* used_entry(const struct queue* queue, u16 index) {
  return (volatile struct used_entry*)(queue->used + 2) + index % queue->size;
}

void offer(struct queue* queue, u16 head) {
  queue->avail[2 + queue->available++ % queue->size] = head;
}

int publish(struct queue* queue, int event_idx) {
  const u16 before = queue->avail[1];
  queue->avail[1] = queue->available;
  __asm__ volatile("lock; addl $0, (%%rsp)" ::: "memory");  // the index before we look
  if (!event_idx) return (queue->used[0] & 1) == 0;
  const u16 event = queue->used[2 + 4 * queue->size];
  return (u16)(queue->available - event - 1) < (u16)(queue->available - before);
}

int expect_interrupt(const struct queue* queue) {
  queue->avail[2 + queue->size] = queue->seen;
  __asm__ volatile("lock; addl $0, (%%rsp)" ::: "memory");
  return queue->seen == used_index(queue);
}

void kick(const struct queue* queue) { write16(queue->notify_gpa, queue->index); }

long request(struct queue* queue, u16 head) {
  offer(queue, head);
  publish(queue, 0);
  kick(queue);
  for (u32 polls = 0; used_index(queue) == queue->seen; polls++) {
    if (polls == 1000000) return -1;
    __asm__ volatile("pause");
  }
  return (long)used_entry(queue, queue->seen++)->written;
}
