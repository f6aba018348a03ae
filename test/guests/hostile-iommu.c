/// A driver at its worst behind a virtio-iommu: requests that are wrong, mappings without end, what
/// is unmapped while a device is at work there, devices that are sent elsewhere all the time. It
/// says what came of each; after a mark it waits for a line.
#include "iommu.h"

#define RAM_FIRST 0x1000000ull
#define RAM_LAST 0x3ffffffull
#define DATA_IOVA 0x7000000000ull
#define PAGE 4096ull
enum { SECTOR_BYTES = 512, READS = 2, UNDONE = 0xee };

static struct iommu iommu;
static u32 domain = 1;  // one for each part: what is left of another is in nobody's way
static u8 *data, *header;

struct subject {
  struct device device;
  struct queue queue;
};

/// How many bytes of an answer there are, in full.
enum { SHORT = 10, OF_ATTACH = 20, OF_UNMAP = 28, OF_MAP = 36, OF_PROBE = 72 };
enum { STATUS_ROOM = 4, PROBE_ROOM = 516 };

/// From a page up to another one.
#define PAGES(from, to) .first = PAGE * (from), .last = PAGE * (to)-1
#define MAP(...) .type = REQUEST_MAP, .domain = 1, __VA_ARGS__
#define UNMAP(...) .type = REQUEST_UNMAP, .domain = 1, __VA_ARGS__

/// The disk, whose endpoint is 8, is in domain 1, where pages 0x10 to 0x1f are mapped.
static const struct {
  const char* name;
  struct iommu_request request;
  u32 sent, room;
} wrongs[] = {
    {"MAP over the start of another", {MAP(PAGES(0xf, 0x11))}, OF_MAP, STATUS_ROOM},
    {"MAP over the end of another", {MAP(PAGES(0x1f, 0x21))}, OF_MAP, STATUS_ROOM},
    {"MAP within another", {MAP(PAGES(0x12, 0x13))}, OF_MAP, STATUS_ROOM},
    {"MAP around another", {MAP(PAGES(0, 0x100))}, OF_MAP, STATUS_ROOM},
    {"MAP of the same", {MAP(PAGES(0x10, 0x20))}, OF_MAP, STATUS_ROOM},
    {"MAP from within a page", {MAP(.first = 0x30001, .last = 0x30fff)}, OF_MAP, STATUS_ROOM},
    {"MAP to within a page", {MAP(.first = 0x30000, .last = 0x30ffe)}, OF_MAP, STATUS_ROOM},
    {"MAP to an odd place", {MAP(PAGES(0x30, 0x31), .gpa = 8)}, OF_MAP, STATUS_ROOM},
    {"MAP backwards", {MAP(.first = 0x31000, .last = 0x2ffff)}, OF_MAP, STATUS_ROOM},
    {"MAP beyond the width", {MAP(PAGES(1ull << 28, (1ull << 28) + 1))}, OF_MAP, STATUS_ROOM},
    {"MAP of everything", {MAP(.first = 0, .last = ~0ull)}, OF_MAP, STATUS_ROOM},
    {"MAP to no address", {MAP(PAGES(0x30, 0x31), .gpa = 1ull << 52)}, OF_MAP, STATUS_ROOM},
    {"MAP that wraps", {MAP(PAGES(0x30, 0x32), .gpa = 0 - PAGE)}, OF_MAP, STATUS_ROOM},
    {"MAP over interrupts", {MAP(PAGES(0xfee00, 0xfee01))}, OF_MAP, STATUS_ROOM},
    {"MAP with odd flags", {MAP(PAGES(0x30, 0x31), .map_flags = 8)}, OF_MAP, STATUS_ROOM},
    {"MAP of no domain", {.type = REQUEST_MAP, .domain = 9, PAGES(0, 1)}, OF_MAP, STATUS_ROOM},
    {"UNMAP of a part", {UNMAP(PAGES(0x10, 0x1f))}, OF_UNMAP, STATUS_ROOM},
    {"UNMAP from the middle", {UNMAP(PAGES(0x18, 0x30))}, OF_UNMAP, STATUS_ROOM},
    {"UNMAP backwards", {UNMAP(.first = 2, .last = 1)}, OF_UNMAP, STATUS_ROOM},
    {"UNMAP of nothing", {UNMAP(PAGES(0x40, 0x50))}, OF_UNMAP, STATUS_ROOM},
    {"UNMAP of no domain", {.type = REQUEST_UNMAP, .domain = 9}, OF_UNMAP, STATUS_ROOM},
    {"ATTACH of no endpoint", {.type = REQUEST_ATTACH, .domain = 1, .endpoint = 9}, OF_ATTACH, 4},
    {"ATTACH with odd flags", {.type = REQUEST_ATTACH, .endpoint = 8, .flags = 2}, OF_ATTACH, 4},
    {"ATTACH with more", {.type = REQUEST_ATTACH, .endpoint = 8, .reserved = 1}, OF_ATTACH, 4},
    {"ATTACH past mappings",
     {.type = REQUEST_ATTACH, .domain = 1, .endpoint = 16, .flags = ATTACH_BYPASS},
     OF_ATTACH,
     STATUS_ROOM},
    {"DETACH from elsewhere", {.type = REQUEST_DETACH, .domain = 9, .endpoint = 8}, OF_ATTACH, 4},
    {"DETACH of no endpoint", {.type = REQUEST_DETACH, .domain = 1, .endpoint = 9}, OF_ATTACH, 4},
    {"PROBE of no endpoint", {.type = REQUEST_PROBE, .domain = 9}, OF_PROBE, PROBE_ROOM},
    {"PROBE without room", {.type = REQUEST_PROBE, .domain = 8}, OF_PROBE, STATUS_ROOM},
    {"request of no type", {.type = 77}, OF_MAP, STATUS_ROOM},
    {"request that ends early", {MAP(PAGES(0x30, 0x31))}, SHORT, STATUS_ROOM},
    {"request of no bytes", {.type = 0}, 0, STATUS_ROOM},
    {"request without room", {MAP(PAGES(0x30, 0x31))}, OF_MAP, 0},
    {"request with little room", {MAP(PAGES(0x30, 0x31))}, OF_MAP, 3},
};
enum { WRONGS = sizeof(wrongs) / sizeof(wrongs[0]) };

static void say_answer(const char* name, long status) {
  if (status == GIVEN_BACK) return say("%s: given back\n", name);
  if (status == TIMED_OUT) return say("%s: none\n", name);
  say("%s: %u\n", name, (u64)status);
}

static int find(u32 type, u32 nth, struct subject* subject) {
  if (!find_device(type, nth, &subject->device)) return 0;
  if (!accept_features(&subject->device, F_VERSION_1 | F_ACCESS_PLATFORM)) return 0;
  set_up_queue(&subject->device, 0, 0, &subject->queue);
  return 1;
}

static void start(const struct subject* subject) {
  set_status(&subject->device, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

/// In a domain of its own, where RAM is what it is, and data are far from there.
static void go_behind(const struct subject* subject) {
  domain++;
  iommu_attach(&iommu, domain, endpoint_of(&subject->device), 0);
  iommu_map(&iommu, domain, RAM_FIRST, RAM_LAST, RAM_FIRST);
  iommu_map(&iommu, domain, DATA_IOVA, DATA_IOVA + READS * PAGE - 1, (u64)data);
}

static u8* status_of_read(u32 nth) { return header + 16 + nth; }

/// A sector of the disk, to the nth page of the data.
static void offer_read(struct subject* disk, u32 nth) {
  const u16 head = (u16)(3 * nth);
  volatile struct descriptor* table = disk->queue.table;
  data[nth * PAGE] = 0;
  *status_of_read(nth) = UNDONE;
  table[head] = (struct descriptor){(u64)header, 16, NEXT, head + 1};
  table[head + 1] =
      (struct descriptor){DATA_IOVA + nth * PAGE, SECTOR_BYTES, NEXT | WRITE, head + 2};
  table[head + 2] = (struct descriptor){(u64)status_of_read(nth), 1, WRITE, 0};
  offer(&disk->queue, head);
}

static void go(struct subject* subject) {
  publish(&subject->queue, 0);
  kick(&subject->queue);
}

/// Whether any request is done; a slow disk may take a second.
static int await_used(const struct subject* subject) {
  for (const u64 end = cycles() + PATIENCE_CYCLES; cycles() < end;) {
    if (used_index(&subject->queue) != 0) return 1;
    __asm__ volatile("pause");
  }
  return 0;
}

static int needs_reset(const struct subject* subject) {
  for (u32 polls = 0; polls < 20000; polls++)
    if (status_of(&subject->device) & NEEDS_RESET) return 1;
  return 0;
}

static void say_serves(const char* name) {
  struct subject disk;
  int read = 0;
  if (find(VIRTIO_BLOCK, 0, &disk)) {
    go_behind(&disk);
    start(&disk);
    offer_read(&disk, 0);
    go(&disk);
    read = await_used(&disk) && *status_of_read(0) == 0;
    reset_device(&disk.device);
  }
  say("%s: serves %u, data %x\n", name, (u64)read, (u64)data[0]);
}

static void ask_wrongly(void) {
  struct subject disk;
  if (!find(VIRTIO_BLOCK, 0, &disk)) return;
  say_answer("ATTACH", iommu_attach(&iommu, 1, endpoint_of(&disk.device), 0));
  say_answer("MAP", iommu_map(&iommu, 1, PAGE * 0x10, PAGE * 0x20 - 1, RAM_FIRST));
  for (u32 i = 0; i < WRONGS; i++)
    say_answer(wrongs[i].name,
               iommu_ask(&iommu, &wrongs[i].request, wrongs[i].sent, wrongs[i].room));
  say_answer("UNMAP of all", iommu_unmap(&iommu, 1, 0, ~0ull));
  say_answer("DETACH", iommu_detach(&iommu, 1, endpoint_of(&disk.device)));
}

/// Page after page, each a mapping of its own, until one is refused; returns how many there were. A
/// guest may be interpreted, so what does not change is written once.
static u64 map_without_end(u32 into, long* refusal) {
  struct iommu_request* requests[IOMMU_SLOTS];
  struct iommu_request request = {
      .type = REQUEST_MAP, .domain = into, .gpa = RAM_FIRST, .map_flags = MAP_READ};
  u64 first = 0;
  for (u32 slot = 0; slot < IOMMU_SLOTS; slot++)
    requests[slot] = offer_request(&iommu, slot, &request, OF_MAP, STATUS_ROOM);
  for (u64 count = 0;; count += IOMMU_SLOTS) {
    for (u32 slot = 0; slot < IOMMU_SLOTS; slot++, first += 2 * PAGE) {
      requests[slot]->first = first;
      requests[slot]->last = first + PAGE - 1;
    }
    kick_iommu(&iommu);
    *refusal = await_answer(&iommu, IOMMU_SLOTS - 1);
    if (*refusal == IOMMU_OK) {
      offer_again(&iommu);
      continue;
    }
    for (u32 slot = 0; slot < IOMMU_SLOTS; slot++) count += await_answer(&iommu, slot) == IOMMU_OK;
    return count;
  }
}

/// Two domains, of which one has all mappings that there can be.
static void fill(void) {
  struct subject disk, slow;
  if (!find(VIRTIO_BLOCK, 0, &disk) || !find(VIRTIO_BLOCK, 1, &slow)) return;
  const u32 one = ++domain, other = ++domain;
  long refusal;
  iommu_attach(&iommu, one, endpoint_of(&disk.device), 0);
  iommu_attach(&iommu, other, endpoint_of(&slow.device), 0);
  const u64 count = map_without_end(one, &refusal);
  say("mappings: %u, then %u\n", count, (u64)refusal);
  say_answer("MAP elsewhere", iommu_map(&iommu, other, 0, PAGE - 1, RAM_FIRST));
  say_answer("DETACH of all that", iommu_detach(&iommu, one, endpoint_of(&disk.device)));
  say_answer("MAP after it", iommu_map(&iommu, other, 0, PAGE - 1, RAM_FIRST));
  iommu_detach(&iommu, other, endpoint_of(&slow.device));
}

/// The second read has been taken when the first is done, and waits for its turn.
static int read_slowly(struct subject* disk) {
  if (!find(VIRTIO_BLOCK, 1, disk)) return 0;
  go_behind(disk);
  start(disk);
  for (u32 nth = 0; nth < READS; nth++) offer_read(disk, nth);
  go(disk);
  return await_used(disk);
}

/// What was done when the answer came, rather than what is soon.
static void say_done(const char* name, struct subject* disk, long answer) {
  const u64 status = *status_of_read(1), byte = data[PAGE];
  say("%s in flight: %u, read %x, data %x\n", name, (u64)answer, status, byte);
  reset_device(&disk->device);
}

static void take_away_in_flight(void) {
  struct subject disk;
  const u64 last = DATA_IOVA + READS * PAGE - 1;
  if (read_slowly(&disk)) say_done("UNMAP", &disk, iommu_unmap(&iommu, domain, DATA_IOVA, last));
  if (read_slowly(&disk)) say_done("UNMAP of all", &disk, iommu_unmap(&iommu, domain, 0, ~0ull));
  if (read_slowly(&disk))
    say_done("DETACH", &disk, iommu_detach(&iommu, domain, endpoint_of(&disk.device)));
  if (read_slowly(&disk))
    say_done("ATTACH", &disk, iommu_attach(&iommu, ++domain, endpoint_of(&disk.device), 0));
  if (read_slowly(&disk)) {
    reset_device(&iommu.device);
    say_done("reset", &disk, 0);
  }
  start_iommu(&iommu);
}

static void say_broken(const char* name, struct subject* subject) {
  say("%s: needs reset %u\n", name, (u64)needs_reset(subject));
  reset_device(&subject->device);
}

static void read_once(struct subject* disk) {
  offer_read(disk, 0);
  go(disk);
}

static long map_for_reading(u64 first, u64 last, u64 gpa) {
  const struct iommu_request request = {.type = REQUEST_MAP,
                                        .domain = domain,
                                        .first = first,
                                        .last = last,
                                        .gpa = gpa,
                                        .map_flags = MAP_READ};
  return iommu_ask(&iommu, &request, OF_MAP, STATUS_ROOM);
}

/// Rings and buffers that are not there, or not so.
static void unmap_rings(void) {
  struct subject disk;
  if (!find(VIRTIO_BLOCK, 0, &disk)) return;
  iommu_attach(&iommu, ++domain, endpoint_of(&disk.device), 0);
  start(&disk);
  read_once(&disk);
  say_broken("rings that are not mapped", &disk);

  find(VIRTIO_BLOCK, 0, &disk);
  map_for_reading(RAM_FIRST, RAM_LAST, RAM_FIRST);
  start(&disk);
  read_once(&disk);
  say_broken("rings that are read-only", &disk);

  find(VIRTIO_BLOCK, 0, &disk);
  go_behind(&disk);
  start(&disk);
  say_answer("UNMAP of rings", iommu_unmap(&iommu, domain, RAM_FIRST, RAM_LAST));
  say_broken("rings that go", &disk);

  find(VIRTIO_BLOCK, 0, &disk);
  go_behind(&disk);
  iommu_unmap(&iommu, domain, DATA_IOVA, ~0ull);
  start(&disk);
  read_once(&disk);
  say_broken("a buffer that is not mapped", &disk);

  find(VIRTIO_BLOCK, 0, &disk);
  map_for_reading(DATA_IOVA, DATA_IOVA + PAGE - 1, (u64)data);
  start(&disk);
  read_once(&disk);
  say_broken("a buffer that is read-only", &disk);

  find(VIRTIO_BLOCK, 0, &disk);
  iommu_detach(&iommu, domain, endpoint_of(&disk.device));
  write8(iommu.device.config + BYPASS_BYTE, 0);
  start(&disk);
  read_once(&disk);
  say_broken("a device without a domain", &disk);
  write8(iommu.device.config + BYPASS_BYTE, 1);
}

/// A card holds what it has taken until there is a frame; the host may have some.
static void unmap_receive_buffers(void) {
  struct subject card;
  if (!find(VIRTIO_NET, 0, &card)) return;
  go_behind(&card);
  start(&card);
  for (u16 head = 0; head < card.queue.size; head++) {
    card.queue.table[head] = (struct descriptor){DATA_IOVA, PAGE, WRITE, 0};
    offer(&card.queue, head);
  }
  go(&card);
  say_answer("UNMAP of receive buffers", iommu_unmap(&iommu, domain, DATA_IOVA, ~0ull));
  say_broken("receive buffers that go", &card);
}

static u32 seed = 1;
static u32 random_below(u32 limit) {
  seed = seed * 1664525 + 1013904223;
  return (seed >> 8) % limit;
}

/// One step of a storm; false if nobody answered.
static int blow(struct subject* disk) {
  const u32 endpoint = endpoint_of(&disk->device), into = 1 + random_below(3);
  switch (random_below(8)) {
    case 0:
      return iommu_attach(&iommu, into, endpoint, random_below(4) == 0) != TIMED_OUT;
    case 1:
      return iommu_detach(&iommu, into, endpoint) != TIMED_OUT;
    case 2:
      return iommu_unmap(&iommu, into, 0, ~0ull) != TIMED_OUT;
    case 3:
      reset_device(&iommu.device);
      return start_iommu(&iommu);
    case 4:
      write8(iommu.device.config + BYPASS_BYTE, (u8)random_below(2));
      return 1;
    case 5:
      go_behind(disk);
      return 1;
    case 6:
      if ((status_of(&disk->device) & NEEDS_RESET) == 0) return 1;
      find(VIRTIO_BLOCK, 0, disk);
      start(disk);
      return 1;
    default:
      read_once(disk);
      return 1;
  }
}

static void storm(u32 steps) {
  struct subject disk;
  u32 unanswered = 0;
  if (!find(VIRTIO_BLOCK, 0, &disk)) return;
  start(&disk);
  for (u32 i = 0; i < steps; i++) unanswered += blow(&disk) == 0;
  reset_device(&disk.device);
  reset_device(&iommu.device);
  start_iommu(&iommu);
  say("storm of %u: unanswered %u\n", (u64)steps, (u64)unanswered);
  say_serves("after a storm");
}

static void mark(const char* name) {
  say("mark: %s\n", name);
  ask();
}

void main(void) {
  data = allocate(READS * PAGE);
  header = allocate(PAGE);
  if (!start_iommu(&iommu)) return say("no IOMMU\n");
  ask_wrongly();
  say_serves("after wrong requests");
  fill();
  mark("filled");
  fill();
  mark("filled again");
  say_serves("after endless maps");
  take_away_in_flight();
  unmap_rings();
  unmap_receive_buffers();
  say_serves("after unmapping");
  storm(200);
  mark("storm");
  for (u32 i = 0; i < 3; i++) storm(200);
  mark("more storms");
  say("done\n");
}
