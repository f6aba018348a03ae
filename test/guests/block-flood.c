/// Keeps a disk's queue full: what the device costs under steady load, as the guest sees it. Each
/// number that it is told is a number of requests to make; 0 ends it.
#include "virtio.h"

enum { IN_FLIGHT = 64, SECTORS = 8, DISK_SECTORS = 65536 };

struct header {
  u32 type, reserved;
  u64 sector;
};

static struct header* headers;
static u8* data;
static u8* statuses;

/// Each request is one indirect-free chain of three descriptors, laid out once.
static void lay_out(struct queue* queue, u32 slot) {
  volatile struct descriptor* chain = queue->table + 3 * slot;
  const u16 first = (u16)(3 * slot);
  chain[0] = (struct descriptor){(u64)&headers[slot], 16, NEXT, first + 1};
  chain[1] = (struct descriptor){(u64)(data + 4096 * slot), 4096, NEXT | WRITE, first + 2};
  chain[2] = (struct descriptor){(u64)&statuses[slot], 1, WRITE, 0};
}

static void flood(struct queue* queue, u32 requests) {
  u32 random = 1, submitted = 0, completed = 0, kicks = 0, failed = 0;
  u32 seen = interrupts();
  const u32 interrupts_before = seen;
  const u64 started = cycles();
  for (u32 slot = 0; slot < IN_FLIGHT && submitted < requests; slot++, submitted++)
    offer(queue, (u16)(3 * slot));
  if (publish(queue, 1)) kick(queue), kicks++;
  while (completed < requests) {
    for (; queue->seen != used_index(queue); completed++) {
      const u32 head = used_entry(queue, queue->seen++)->head;
      if (statuses[head / 3] != 0) failed++;
      if (submitted == requests) continue;
      random = random * 1103515245 + 12345;
      headers[head / 3].sector = (random >> 8) % (DISK_SECTORS / SECTORS) * SECTORS;
      offer(queue, (u16)head);
      submitted++;
    }
    if (publish(queue, 1)) kick(queue), kicks++;
    if (completed < requests && expect_interrupt(queue)) seen = wait_for_interrupt(seen);
  }
  say("{\"requests\":%u,\"failed\":%u,\"kicks\":%u,\"interrupts\":%u,\"cycles\":%u}\n",
      (u64)completed, (u64)failed, (u64)kicks, (u64)(interrupts() - interrupts_before),
      cycles() - started);
}

void main(void) {
  struct device disk;
  struct queue queue;
  if (!find_device(VIRTIO_BLOCK, 0, &disk)) return say("no disk\n");
  const u64 features = F_VERSION_1 | F_EVENT_IDX;
  if (!accept_features(&disk, features)) return say("features refused\n");
  set_up_queue(&disk, 0, 256, &queue);
  enable_msix(&disk);
  enable_interrupts();
  set_status(&disk, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);

  headers = allocate(sizeof(struct header) * IN_FLIGHT);
  data = allocate(4096 * IN_FLIGHT);
  statuses = allocate(IN_FLIGHT);
  for (u32 slot = 0; slot < IN_FLIGHT; slot++) lay_out(&queue, slot);
  say("ready\n");
  for (u64 count = ask(); count; count = ask()) flood(&queue, (u32)count);
}
