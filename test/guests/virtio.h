#pragma once
/// A driver for virtio over PCI that does as it is told, right or wrong. VIRTIO 1.2 §2.7 and §4.1.
#include "guest.h"

enum {
  VIRTIO_NET = 1,
  VIRTIO_BLOCK = 2,
  VIRTIO_CONSOLE = 3,
  VIRTIO_RNG = 4,
  VIRTIO_BALLOON = 5,
  VIRTIO_RTC = 17,
  VIRTIO_VSOCK = 19,
  VIRTIO_IOMMU = 23,
  VIRTIO_MEM = 24,
  VIRTIO_FS = 26,
  VIRTIO_PMEM = 27,
  VIRTIO_WATCHDOG = 35
};
enum {
  ACKNOWLEDGE = 1,
  DRIVER = 2,
  DRIVER_OK = 4,
  FEATURES_OK = 8,
  NEEDS_RESET = 64,
  FAILED = 128
};
enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };
enum { NO_INTERRUPT = 1 };
#define F_INDIRECT_DESC (1ull << 28)
#define F_EVENT_IDX (1ull << 29)
#define F_VERSION_1 (1ull << 32)
#define F_ACCESS_PLATFORM (1ull << 33)

/// Offsets in the common configuration, §4.1.4.3.
enum common {
  DEVICE_FEATURE_SELECT = 0,
  DEVICE_FEATURE = 4,
  DRIVER_FEATURE_SELECT = 8,
  DRIVER_FEATURE = 12,
  CONFIG_VECTOR = 16,
  NUM_QUEUES = 18,
  STATUS = 20,
  CONFIG_GENERATION = 21,
  QUEUE_SELECT = 22,
  QUEUE_SIZE = 24,
  QUEUE_VECTOR = 26,
  QUEUE_ENABLE = 28,
  QUEUE_NOTIFY_OFF = 30,
  QUEUE_DESC = 32,
  QUEUE_DRIVER = 40,
  QUEUE_DEVICE = 48,
};

struct descriptor {
  u64 gpa;
  u32 length;
  u16 flags, next;
};

struct used_entry {
  u32 head, written;
};

struct queue {
  u16 size, index;
  u16 available, seen;  // indexes of the driver: given, and taken back
  volatile struct descriptor* table;
  volatile u16* avail;  // flags, index, entries, used_event
  volatile u16* used;   // flags, index, then used_entry, then avail_event
  u64 notify_gpa;
};

struct device {
  u32 slot;
  u64 bar, common, isr, notify, config;
  u32 notify_multiplier;
};

u32 pci_read(u32 slot, u32 offset);
void pci_write(u32 slot, u32 offset, u32 value);

/// The `nth` device of a virtio type; false if there is none. Its BAR is moved below 4 GiB, and it
/// is reset.
int find_device(u32 type, u32 nth, struct device* device);
void reset_device(struct device* device);
u64 offered_features(const struct device* device);
/// Acknowledges, and accepts `features`. False if the device refuses.
int accept_features(const struct device* device, u64 features);
/// Sets queue `index` up with its rings in RAM of its own; its interrupts come on vector 0x40 +
/// `index` once `enable_msix` was called. `size` 0 takes what the device offers.
void set_up_queue(const struct device* device, u16 index, u16 size, struct queue* queue);
/// MSI-X entry n sends vector 0x40 + n to the boot CPU.
void enable_msix(const struct device* device);
void set_status(const struct device* device, u8 status);
u8 status_of(const struct device* device);

volatile struct used_entry* used_entry(const struct queue* queue, u16 index);
static inline u16 used_index(const struct queue* queue) { return queue->used[1]; }
/// Makes the chain at `head` available; the device sees it with the next `publish`.
void offer(struct queue* queue, u16 head);
/// Shows what was offered; true if the device wants a kick. `event_idx` as negotiated.
int publish(struct queue* queue, int event_idx);
void kick(const struct queue* queue);
/// With EVENT_IDX: asks for an interrupt at the next chain that comes back. False if one is there
/// already, which will not interrupt any more.
int expect_interrupt(const struct queue* queue);
/// One chain through a queue, start to end, polling: its written bytes, or -1 if none came back
/// within a second or so.
long request(struct queue* queue, u16 head);
