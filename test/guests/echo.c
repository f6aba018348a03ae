/// Sends a request to the toy device of the tests, and prints what comes back.
#include "virtio.h"

enum { ECHO = 42 };

void main(void) {
  struct device device;
  struct queue queue;
  if (!find_device(ECHO, 0, &device)) return say("no device\n");
  if (!accept_features(&device, F_VERSION_1)) return say("features refused\n");
  set_up_queue(&device, 0, 0, &queue);
  set_status(&device, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);

  char* sent = allocate(64);
  char* received = allocate(64);
  memcpy(sent, "said and heard", 15);
  queue.table[0] = (struct descriptor){(u64)sent, 15, NEXT, 1};
  queue.table[1] = (struct descriptor){(u64)received, 64, WRITE, 0};
  const long written = request(&queue, 0);
  say("%s, %u bytes\n", received, (u64)written);
}
