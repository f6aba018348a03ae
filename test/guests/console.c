/// Prints `up ` on the virtio console, then every byte that is typed there. Q is power-off, R is a
/// reset, W prints the size of the window, and so does a change of it. What has come on COM1
/// meanwhile goes back there.
#include "virtio.h"

enum { RECEIVE = 0, TRANSMIT = 1, CONFIG_VECTOR_NUMBER = 2, ROOM = 64, F_SIZE = 1 };
enum {
  COM1 = 0x3f8,
  COM1_LINE_STATUS = 0x3fd,
  RECEIVED = 1,
  SLEEP = 0x600,
  RESET = 1,
  POWER_OFF = 0x34
};

static struct device device;
static struct queue receive, transmit;
static u8 *input, *output;

static void print(const void* bytes, u32 count) {
  memcpy(output, bytes, count);
  transmit.table[0] = (struct descriptor){(u64)output, count, 0, 0};
  request(&transmit, 0);
}

static void print_number(u32 value) {
  u8 digits[5];
  u32 at = sizeof(digits);
  do {
    digits[--at] = (u8)('0' + value % 10);
    value /= 10;
  } while (value);
  print(digits + at, sizeof(digits) - at);
}

static void print_size(void) {
  print_number(read16(device.config));
  print("x", 1);
  print_number(read16(device.config + 2));
  print(" ", 1);
}

static void listen(void) {
  receive.table[0] = (struct descriptor){(u64)input, ROOM, WRITE, 0};
  offer(&receive, 0);
  publish(&receive, 0);
  kick(&receive);
}

/// What ends this guest takes a moment.
static void end(u8 how) {
  outb(SLEEP, how);
  for (;;) __asm__ volatile("hlt");
}

static void answer(u8 byte) {
  if (byte == 'Q') end(POWER_OFF);
  if (byte == 'R') end(RESET);
  if (byte == 'W') return print_size();
  print(&byte, 1);
}

static void answer_all(void) {
  while (used_index(&receive) != receive.seen) {
    const u32 count = used_entry(&receive, receive.seen++)->written;
    for (u32 i = 0; i < count; i++) answer(input[i]);
    listen();
  }
  while ((inb(COM1_LINE_STATUS) & RECEIVED) != 0) outb(COM1, inb(COM1));
}

void main(void) {
  if (!find_device(VIRTIO_CONSOLE, 0, &device)) return say("no console\n");
  if (!accept_features(&device, F_VERSION_1 | F_SIZE)) return say("no features\n");
  write16(device.common + CONFIG_VECTOR, CONFIG_VECTOR_NUMBER);
  set_up_queue(&device, RECEIVE, 0, &receive);
  set_up_queue(&device, TRANSMIT, 0, &transmit);
  enable_msix(&device);
  enable_interrupts();
  set_status(&device, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
  input = allocate(ROOM);
  output = allocate(ROOM);
  print("up ", 3);
  listen();
  u32 resized = 0;
  for (;;) {
    const u32 seen = interrupts();
    answer_all();
    if (interrupt_count[CONFIG_VECTOR_NUMBER] != resized) {
      resized = interrupt_count[CONFIG_VECTOR_NUMBER];
      print_size();
    }
    wait_for_interrupt(seen);
  }
}
