#pragma once
/// A driver for virtio-iommu that asks for what it is told to, right or wrong. VIRTIO 1.2 §5.13.
#include "virtio.h"

/// What a request is answered with, §5.13.6.2; below 0 if there was no answer.
enum {
  IOMMU_OK = 0,
  IOMMU_NO_MEMORY = 8,
  GIVEN_BACK = -1,  // as it was
  TIMED_OUT = -2,
};
enum { REQUEST_ATTACH = 1, REQUEST_DETACH, REQUEST_MAP, REQUEST_UNMAP, REQUEST_PROBE };
enum { ATTACH_BYPASS = 1, MAP_READ = 1, MAP_WRITE = 2 };
/// In the configuration: whether who is in no domain reaches all of RAM.
enum { BYPASS_BYTE = 36 };
/// Ten seconds or so: a guest may be interpreted, or its host be busy.
#define PATIENCE_CYCLES (1ull << 35)
/// How many can be under way at a time.
enum { IOMMU_SLOTS = 64 };

struct iommu_request {
  u8 type, zero[3];
  u32 domain;  // of a PROBE, the endpoint
  union {
    struct {
      u32 endpoint, flags, reserved;
    };
    struct {
      u64 first, last, gpa;
      u32 map_flags;
    };
  };
};

struct iommu {
  struct device device;
  struct queue queue;
  u8* slots;
  long answers[IOMMU_SLOTS];
};

/// Finds it, resets it and sets its queue of requests up; false if there is none.
int start_iommu(struct iommu* iommu);

/// Bus 0 of segment 0.
static inline u32 endpoint_of(const struct device* device) { return device->slot << 3; }

/// Makes the first `sent` bytes of a request available in a slot that none is in, and room for an
/// answer of so many; the IOMMU is to be kicked. Returns where the request lies.
struct iommu_request* offer_request(struct iommu* iommu, u32 slot,
                                    const struct iommu_request* request, u32 sent, u32 room);
/// The same in all slots once more, when all are answered.
void offer_again(struct iommu* iommu);
void kick_iommu(struct iommu* iommu);
/// Whether what is in the slot is answered by now.
int is_answered(struct iommu* iommu, u32 slot);
long await_answer(struct iommu* iommu, u32 slot);

long iommu_ask(struct iommu* iommu, const struct iommu_request* request, u32 sent, u32 room);
long iommu_attach(struct iommu* iommu, u32 domain, u32 endpoint, u32 flags);
long iommu_detach(struct iommu* iommu, u32 domain, u32 endpoint);
long iommu_map(struct iommu* iommu, u32 domain, u64 first, u64 last, u64 gpa);
long iommu_unmap(struct iommu* iommu, u32 domain, u64 first, u64 last);
