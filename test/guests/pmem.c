/// Writes to persistent memory, has it flushed, and says what it found and how that went. The third
/// byte is the host's: 0 waits, 1 asks for another flush, 2 for a look at the last byte, and the
/// end.
#include "virtio.h"

static u64 config64(const struct device* device, u32 offset) {
  return read32(device->config + offset) | (u64)read32(device->config + offset + 4) << 32;
}

void main(void) {
  struct device device;
  struct queue queue;
  if (!find_device(VIRTIO_PMEM, 0, &device)) return say("no device\n");
  if (!accept_features(&device, F_VERSION_1)) return say("features refused\n");
  set_up_queue(&device, 0, 0, &queue);
  set_status(&device, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);

  const u64 start = config64(&device, 0);
  const u64 size = config64(&device, 8);
  say("%u bytes, first %x\n", size, (u64)read8(start));
  write8(start + 1, 0x77);
  say("second %x\n", (u64)read8(start + 1));

  u32* request_and_answer = allocate(64);
  u8 order = 1;
  while (order == 1) {
    request_and_answer[0] = 0;  // FLUSH
    request_and_answer[1] = 0xee;
    queue.table[0] = (struct descriptor){(u64)request_and_answer, 4, NEXT, 1};
    queue.table[1] = (struct descriptor){(u64)(request_and_answer + 1), 4, WRITE, 0};
    const long written = request(&queue, 0);
    say("flush %u, %u bytes\n", (u64)request_and_answer[1], (u64)written);
    while ((order = read8(start + 2)) == 0) continue;
    if (order == 1) write8(start + 2, 0);
  }
  say("last %x\n", (u64)read8(start + size - 1));
}
