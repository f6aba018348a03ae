/// A driver that breaks each rule of virtqueues in turn, on each device that it finds. After each
/// it says whether the device asked to be reset, and whether it and its neighbour serve again. What
/// is behind an IOMMU finds there the RAM that it needs, where it is, and nothing else.
#include "iommu.h"

#define F_CTRL_VQ (1ull << 17)
enum { RAM_FIRST = 0x1000000, RAM_END = 0x4000000, FAR_OUTSIDE = 0xb0000000u, DOMAIN = 1 };

struct subject {
  const char* name;
  u32 type;
  u16 queue;
  u64 features;
};
static const struct subject subjects[] = {
    {"block", VIRTIO_BLOCK, 0, 0},     {"net", VIRTIO_NET, 1, 0},
    {"rng", VIRTIO_RNG, 0, 0},         {"control of net", VIRTIO_NET, 2, F_CTRL_VQ},
    {"console", VIRTIO_CONSOLE, 1, 0}, {"pmem", VIRTIO_PMEM, 0, 0},
    {"vsock", VIRTIO_VSOCK, 1, 0},     {"balloon", VIRTIO_BALLOON, 0, 0},
    {"mem", VIRTIO_MEM, 0, 0},         {"watchdog", VIRTIO_WATCHDOG, 0, 0},
    {"rtc", VIRTIO_RTC, 0, 0},         {"iommu", VIRTIO_IOMMU, 0, 0}};
enum { SUBJECTS = sizeof(subjects) / sizeof(subjects[0]) };

static u8* buffer;

static void describe(struct queue* queue, u16 index, u64 gpa, u32 length, u16 flags, u16 next) {
  queue->table[index] = (struct descriptor){gpa, length, flags, next};
}

/// A request as it should be, in the first descriptors. Its head is 0.
static void good_chain(const struct subject* subject, struct queue* queue) {
  switch (subject->type) {
    case VIRTIO_BLOCK:
      memset(buffer, 0, 16);  // a read of sector 0
      describe(queue, 0, (u64)buffer, 16, NEXT, 1);
      describe(queue, 1, (u64)buffer + 512, 512, NEXT | WRITE, 2);
      describe(queue, 2, (u64)buffer + 16, 1, WRITE, 0);
      return;
    case VIRTIO_NET:
      memset(buffer, 0, 64);  // a header and a frame, or a filter that is off
      if (subject->queue == 1) return describe(queue, 0, (u64)buffer, 64, 0, 0);
      describe(queue, 0, (u64)buffer, 3, NEXT, 1);
      return describe(queue, 1, (u64)buffer + 512, 1, WRITE, 0);
    case VIRTIO_RNG:
      return describe(queue, 0, (u64)buffer, 16, WRITE, 0);
    case VIRTIO_PMEM:
      memset(buffer, 0, 4);  // a flush
      describe(queue, 0, (u64)buffer, 4, NEXT, 1);
      return describe(queue, 1, (u64)buffer + 4, 4, WRITE, 0);
    case VIRTIO_BALLOON:
      memset(buffer, 0xff, 4);  // a page far outside RAM
      return describe(queue, 0, (u64)buffer, 4, 0, 0);
    case VIRTIO_MEM:
      memset(buffer, 0, 24);  // no block, to be plugged
      describe(queue, 0, (u64)buffer, 24, NEXT, 1);
      return describe(queue, 1, (u64)buffer + 24, 10, WRITE, 0);
    case VIRTIO_IOMMU:
      memset(buffer, 0, 20);
      buffer[0] = REQUEST_ATTACH;  // of no endpoint
      describe(queue, 0, (u64)buffer, 20, NEXT, 1);
      return describe(queue, 1, (u64)buffer + 24, 4, WRITE, 0);
    case VIRTIO_VSOCK:
      memset(buffer, 0, 44);  // a packet of no type
      return describe(queue, 0, (u64)buffer, 44, 0, 0);
    default:
      buffer[0] = '.';
      return describe(queue, 0, (u64)buffer, 1, 0, 0);
  }
}

/// Vsock serves no queue without its first, in which it finds no room here.
static void set_up(const struct subject* subject, const struct device* device,
                   struct queue* queue) {
  struct queue first;
  if (subject->type == VIRTIO_VSOCK) set_up_queue(device, 0, 0, &first);
  set_up_queue(device, subject->queue, 0, queue);
}

static int start(const struct subject* subject, struct device* device, struct queue* queue) {
  const u64 accepted = offered_features(device) & (F_INDIRECT_DESC | F_ACCESS_PLATFORM);
  if (!accept_features(device, F_VERSION_1 | subject->features | accepted)) return 0;
  set_up(subject, device, queue);
  set_status(device, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
  return 1;
}

static int serves(const struct subject* subject) {
  struct device device;
  struct queue queue;
  if (!find_device(subject->type, 0, &device) || !start(subject, &device, &queue)) return 0;
  good_chain(subject, &queue);
  const long written = request(&queue, 0);
  reset_device(&device);
  return written >= 0;
}

typedef void breakage(struct queue* queue);

static void loop(struct queue* queue) {
  describe(queue, 0, (u64)buffer, 16, NEXT, 1);
  describe(queue, 1, (u64)buffer, 16, NEXT, 0);
}
static void next_beyond_table(struct queue* queue) {
  describe(queue, 0, (u64)buffer, 16, NEXT, queue->size);
}
static void buffer_outside_ram(struct queue* queue) {
  describe(queue, 0, FAR_OUTSIDE, 16, WRITE, 0);
}
static void buffer_across_the_end(struct queue* queue) {
  describe(queue, 0, RAM_END - 8, 16, WRITE, 0);
}
static void address_wraps(struct queue* queue) { describe(queue, 0, ~0ull - 7, 16, WRITE, 0); }
static void readable_after_writable(struct queue* queue) {
  describe(queue, 0, (u64)buffer, 16, WRITE | NEXT, 1);
  describe(queue, 1, (u64)buffer, 16, 0, 0);
}
static void indirect_in_indirect(struct queue* queue) {
  struct descriptor* table = allocate(32);
  table[0] = (struct descriptor){(u64)table, 16, INDIRECT, 0};
  describe(queue, 0, (u64)table, 16, INDIRECT, 0);
}
static void indirect_of_odd_length(struct queue* queue) {
  describe(queue, 0, (u64)buffer, 17, INDIRECT, 0);
}
static void indirect_table_outside_ram(struct queue* queue) {
  describe(queue, 0, FAR_OUTSIDE, 16, INDIRECT, 0);
}
static void indirect_with_next(struct queue* queue) {
  describe(queue, 0, (u64)buffer, 16, INDIRECT | NEXT, 1);
}
/// Both are there before the device looks; only the first may be taken.
static void same_head_twice(struct queue* queue) { offer(queue, 0); }
static void head_beyond_table(struct queue* queue) { offer(queue, queue->size); }
static void index_too_far(struct queue* queue) { queue->available += queue->size; }

static const struct {
  const char* name;
  breakage* act;
} breakages[] = {
    {"loop", loop},
    {"next beyond table", next_beyond_table},
    {"buffer outside RAM", buffer_outside_ram},
    {"buffer across the end of RAM", buffer_across_the_end},
    {"address wraps", address_wraps},
    {"readable after writable", readable_after_writable},
    {"indirect in indirect", indirect_in_indirect},
    {"indirect of odd length", indirect_of_odd_length},
    {"indirect table outside RAM", indirect_table_outside_ram},
    {"indirect with next", indirect_with_next},
    {"same head twice", same_head_twice},
    {"head beyond table", head_beyond_table},
    {"index too far", index_too_far},
};
enum { BREAKAGES = sizeof(breakages) / sizeof(breakages[0]) };

/// Waits for NEEDS_RESET, for long enough that a slow device is not taken for a tolerant one.
static int needs_reset(const struct device* device) {
  for (u32 polls = 0; polls < 20000; polls++)
    if (status_of(device) & NEEDS_RESET) return 1;
  return 0;
}

static void attack(const struct subject* subject, const struct subject* neighbour, u32 which) {
  struct device device;
  struct queue queue;
  if (!find_device(subject->type, 0, &device) || !start(subject, &device, &queue)) return;
  good_chain(subject, &queue);
  breakages[which].act(&queue);
  offer(&queue, 0);
  publish(&queue, 0);
  kick(&queue);
  const int asked = needs_reset(&device);
  const int neighbour_serves = serves(neighbour);
  reset_device(&device);
  say("%s, %s: needs reset %u, neighbour %u, again %u\n", subject->name, breakages[which].name,
      (u64)asked, (u64)neighbour_serves, (u64)serves(subject));
}

/// Rings that are no RAM are found at DRIVER_OK or with the first kick.
static void misplace_rings(const struct subject* subject) {
  static const u16 parts[] = {QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE};
  static const char* const names[] = {"table", "available ring", "used ring"};
  for (u32 i = 0; i < 3; i++) {
    struct device device;
    struct queue queue;
    if (!find_device(subject->type, 0, &device)) return;
    const u64 accepted = offered_features(&device) & F_ACCESS_PLATFORM;
    if (!accept_features(&device, F_VERSION_1 | subject->features | accepted)) return;
    set_up(subject, &device, &queue);
    write32(device.common + parts[i], FAR_OUTSIDE);
    set_status(&device, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    good_chain(subject, &queue);
    offer(&queue, 0);
    publish(&queue, 0);
    kick(&queue);
    const int asked = needs_reset(&device);
    reset_device(&device);
    say("%s, %s outside RAM: needs reset %u, neighbour 1, again %u\n", subject->name, names[i],
        (u64)asked, (u64)serves(subject));
  }
}

/// False if there is no IOMMU. The last of all is the IOMMU itself: a reset has it forget who is
/// behind it.
static int go_behind_iommu(void) {
  static struct iommu iommu;
  if (!start_iommu(&iommu)) return 0;
  for (u32 s = 0; s < SUBJECTS - 1; s++) {
    struct device device;
    if (!find_device(subjects[s].type, 0, &device)) continue;
    if ((offered_features(&device) & F_ACCESS_PLATFORM) == 0) continue;
    const long status = iommu_attach(&iommu, DOMAIN, endpoint_of(&device), 0);
    if (status != IOMMU_OK) say("%s does not go behind the IOMMU\n", subjects[s].name);
  }
  if (iommu_map(&iommu, DOMAIN, RAM_FIRST, RAM_END - 1, RAM_FIRST) != IOMMU_OK) say("no RAM\n");
  return 1;
}

void main(void) {
  buffer = allocate(4096);
  const u32 subjects_here = go_behind_iommu() ? SUBJECTS : SUBJECTS - 1;
  for (u32 s = 0; s < subjects_here; s++) {
    if (!serves(&subjects[s])) say("%s does not serve\n", subjects[s].name);
    for (u32 b = 0; b < BREAKAGES; b++)
      attack(&subjects[s], &subjects[(s + 1) % (SUBJECTS - 1)], b);
    misplace_rings(&subjects[s]);
  }
  say("done\n");
}
