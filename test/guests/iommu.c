#include "iommu.h"

#define F_MAP_UNMAP (1ull << 2)
#define F_PROBE (1ull << 4)
#define F_BYPASS_CONFIG (1ull << 6)

enum { SLOT_BYTES = 1024, ANSWER_AT = 128, UNANSWERED = -3 };
enum { ATTACH_BYTES = 20, MAP_BYTES = 36, UNMAP_BYTES = 28, STATUS_BYTES = 4 };

int start_iommu(struct iommu* iommu) {
  if (!find_device(VIRTIO_IOMMU, 0, &iommu->device)) return 0;
  if (!accept_features(&iommu->device, F_VERSION_1 | F_MAP_UNMAP | F_PROBE | F_BYPASS_CONFIG))
    return 0;
  set_up_queue(&iommu->device, 0, 0, &iommu->queue);
  if (!iommu->slots) iommu->slots = allocate(SLOT_BYTES * IOMMU_SLOTS);
  for (u32 i = 0; i < IOMMU_SLOTS; i++) iommu->answers[i] = UNANSWERED;
  set_status(&iommu->device, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
  return 1;
}

struct iommu_request* offer_request(struct iommu* iommu, u32 slot,
                                    const struct iommu_request* request, u32 sent, u32 room) {
  u8* at = iommu->slots + SLOT_BYTES * slot;
  memset(at, 0, ANSWER_AT);
  memcpy(at, request, sizeof(*request));
  memset(at + ANSWER_AT, 0xee, room);
  const u16 head = (u16)(2 * slot);
  const u16 flags = room ? NEXT : 0;
  iommu->queue.table[head] = (struct descriptor){(u64)at, sent, flags, head + 1};
  iommu->queue.table[head + 1] = (struct descriptor){(u64)at + ANSWER_AT, room, WRITE, 0};
  iommu->answers[slot] = UNANSWERED;
  offer(&iommu->queue, head);
  return (struct iommu_request*)at;
}

void offer_again(struct iommu* iommu) {
  struct queue* queue = &iommu->queue;
  for (u32 slot = 0; slot < IOMMU_SLOTS; slot++) {
    iommu->answers[slot] = UNANSWERED;
    offer(queue, (u16)(2 * slot));
  }
}

void kick_iommu(struct iommu* iommu) {
  publish(&iommu->queue, 0);
  kick(&iommu->queue);
}

/// The status is the first of the last four bytes.
static void take_answers(struct iommu* iommu) {
  struct queue* queue = &iommu->queue;
  while (queue->seen != used_index(queue)) {
    const volatile struct used_entry* entry = used_entry(queue, queue->seen++);
    const u32 slot = entry->head / 2;
    const u8* answer = iommu->slots + SLOT_BYTES * slot + ANSWER_AT;
    iommu->answers[slot] = entry->written ? answer[entry->written - STATUS_BYTES] : GIVEN_BACK;
  }
}

int is_answered(struct iommu* iommu, u32 slot) {
  take_answers(iommu);
  return iommu->answers[slot] != UNANSWERED;
}

long await_answer(struct iommu* iommu, u32 slot) {
  for (const u64 end = cycles() + PATIENCE_CYCLES; cycles() < end;) {
    if (is_answered(iommu, slot)) return iommu->answers[slot];
    __asm__ volatile("pause");
  }
  return TIMED_OUT;
}

long iommu_ask(struct iommu* iommu, const struct iommu_request* request, u32 sent, u32 room) {
  offer_request(iommu, 0, request, sent, room);
  kick_iommu(iommu);
  return await_answer(iommu, 0);
}

long iommu_attach(struct iommu* iommu, u32 domain, u32 endpoint, u32 flags) {
  const struct iommu_request request = {
      .type = REQUEST_ATTACH, .domain = domain, .endpoint = endpoint, .flags = flags};
  return iommu_ask(iommu, &request, ATTACH_BYTES, STATUS_BYTES);
}

long iommu_detach(struct iommu* iommu, u32 domain, u32 endpoint) {
  const struct iommu_request request = {
      .type = REQUEST_DETACH, .domain = domain, .endpoint = endpoint};
  return iommu_ask(iommu, &request, ATTACH_BYTES, STATUS_BYTES);
}

long iommu_map(struct iommu* iommu, u32 domain, u64 first, u64 last, u64 gpa) {
  const struct iommu_request request = {.type = REQUEST_MAP,
                                        .domain = domain,
                                        .first = first,
                                        .last = last,
                                        .gpa = gpa,
                                        .map_flags = MAP_READ | MAP_WRITE};
  return iommu_ask(iommu, &request, MAP_BYTES, STATUS_BYTES);
}

long iommu_unmap(struct iommu* iommu, u32 domain, u64 first, u64 last) {
  const struct iommu_request request = {
      .type = REQUEST_UNMAP, .domain = domain, .first = first, .last = last};
  return iommu_ask(iommu, &request, UNMAP_BYTES, STATUS_BYTES);
}
