/// Sends and receives frames as fast as they go: what a network card costs under steady load, as
/// the guest sees it. It is told a direction, the bytes of a frame and how many, a line each.
#include "virtio.h"

enum { SEND = 2 };  // of the directions, the other one is to receive
enum { ENTRIES = 256, HEADER_BYTES = 12, NUM_BUFFERS = 10, BUFFER_BYTES = 4096 };
#define F_GUEST_CSUM (1ull << 1)
#define F_GUEST_TSO4 (1ull << 7)
#define F_MRG_RXBUF (1ull << 15)

struct counts {
  u32 frames, kicks, interrupts;
};

static u8* received;

static void show(struct queue* queue, struct counts* counts) {
  if (publish(queue, 1)) kick(queue), counts->kicks++;
}

/// Asks for an interrupt once more than `chains` have come back; false if they have already.
static int expect_more_than(const struct queue* queue, u16 chains) {
  queue->avail[2 + queue->size] = queue->seen + chains;
  __asm__ volatile("lock; addl $0, (%%rsp)" ::: "memory");
  return (u16)(used_index(queue) - queue->seen) <= chains;
}

/// Keeps the queue full, and sleeps as Linux does until three quarters of it were sent.
static void send(struct queue* queue, u32 frame_bytes, u32 frames, struct counts* counts) {
  u8* frame = received + ENTRIES * BUFFER_BYTES;
  u32 offered = 0, seen = interrupts();
  for (; offered < ENTRIES && offered < frames; offered++) {
    queue->table[offered] = (struct descriptor){(u64)frame, HEADER_BYTES + frame_bytes, 0, 0};
    offer(queue, (u16)offered);
  }
  show(queue, counts);
  while (counts->frames < frames) {
    for (; queue->seen != used_index(queue); counts->frames++) {
      const u32 head = used_entry(queue, queue->seen++)->head;
      if (offered < frames) offer(queue, (u16)head), offered++;
    }
    show(queue, counts);
    const u32 out = offered - counts->frames;
    if (out && expect_more_than(queue, (u16)(out * 3 / 4))) seen = wait_for_interrupt(seen);
  }
}

static void receive(struct queue* queue, u32 frames, struct counts* counts) {
  u32 seen = interrupts(), buffers_left = 0;
  while (counts->frames < frames) {
    while (queue->seen != used_index(queue)) {
      const u32 head = used_entry(queue, queue->seen++)->head;
      if (buffers_left == 0)
        buffers_left = read16((u64)(received + head * BUFFER_BYTES + NUM_BUFFERS));
      if (--buffers_left == 0) counts->frames++;
      offer(queue, (u16)head);
    }
    show(queue, counts);
    if (counts->frames < frames && expect_interrupt(queue)) seen = wait_for_interrupt(seen);
  }
}

static void lay_out(struct queue* queue) {
  for (u32 i = 0; i < ENTRIES; i++) {
    const u64 buffer = (u64)(received + i * BUFFER_BYTES);
    queue->table[i] = (struct descriptor){buffer, BUFFER_BYTES, WRITE, 0};
    offer(queue, (u16)i);
  }
  if (publish(queue, 1)) kick(queue);
}

void main(void) {
  struct device card;
  struct queue queues[2];
  if (!find_device(VIRTIO_NET, 0, &card)) return say("no card\n");
  const u64 features = F_VERSION_1 | F_EVENT_IDX | F_MRG_RXBUF | F_GUEST_CSUM | F_GUEST_TSO4;
  if (!accept_features(&card, features)) return say("features refused\n");
  for (u16 i = 0; i < 2; i++) set_up_queue(&card, i, ENTRIES, &queues[i]);
  enable_msix(&card);
  enable_interrupts();
  set_status(&card, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
  received = allocate((ENTRIES + 17) * BUFFER_BYTES);  // and a frame of up to 64 KiB to send
  lay_out(&queues[0]);
  say("ready\n");
  for (u64 direction = ask(); direction; direction = ask()) {
    struct counts counts = {0};
    const u32 interrupts_before = interrupts();
    const u32 frame_bytes = (u32)ask(), frames = (u32)ask();
    if (direction == SEND)
      send(&queues[1], frame_bytes, frames, &counts);
    else
      receive(&queues[0], frames, &counts);
    counts.interrupts = interrupts() - interrupts_before;
    say("{\"frames\":%u,\"kicks\":%u,\"interrupts\":%u}\n", (u64)counts.frames, (u64)counts.kicks,
        (u64)counts.interrupts);
  }
}
