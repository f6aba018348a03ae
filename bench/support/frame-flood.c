/// Sends frames of so many bytes into a network device until it is killed, faster than anyone takes
/// them: `frame-flood DEVICE BYTES`. What finds no room in the device's queue is dropped there.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BURST = 64, BURST_EVERY_NS = 100000 };

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const size_t bytes = strtoul(argv[2], NULL, 10);
  const int fd = socket(AF_PACKET, SOCK_RAW, 0);
  const struct sockaddr_ll device = {
      .sll_family = AF_PACKET,
      .sll_protocol = htons(ETH_P_LOOPBACK),
      .sll_ifindex = (int)if_nametoindex(argv[1]),
  };
  if (fd < 0 || bind(fd, (const struct sockaddr*)&device, sizeof(device)) < 0) {
    perror(argv[1]);
    return 1;
  }
  unsigned char* frame = calloc(1, bytes);
  memset(frame, 0xff, 6);
  frame[6] = 2;
  frame[12] = ETH_P_LOOPBACK >> 8;
  struct iovec data = {frame, bytes};
  struct mmsghdr burst[BURST];
  memset(burst, 0, sizeof(burst));
  for (int i = 0; i < BURST; i++)
    burst[i].msg_hdr = (struct msghdr){.msg_iov = &data, .msg_iovlen = 1};
  const struct timespec pause = {0, BURST_EVERY_NS};
  for (;;) {
    sendmmsg(fd, burst, BURST, 0);
    nanosleep(&pause, NULL);
  }
}
