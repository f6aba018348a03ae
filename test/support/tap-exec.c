/// `tap-exec COUNT COMMAND...` becomes the command, in a network namespace of its own and with the
/// files of a tap, `lan0`, from 3 on; `tap-exec COUNT --send SOCKET` gives them to who listens
/// there.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { FIRST_FD = 3, COUNT_MAX = 8 };

static int OpenTap(int count) {
  for (int fd = FIRST_FD; fd < FIRST_FD + count; ++fd) {
    const int file = open("/dev/net/tun", O_RDWR);
    if (file < 0 || (file != fd && (dup2(file, fd) < 0 || close(file) < 0))) return -1;
    struct ifreq tap = {.ifr_name = "lan0", .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    if (count > 1) tap.ifr_flags |= IFF_MULTI_QUEUE;
    if (ioctl(fd, TUNSETIFF, &tap) < 0) return -1;
  }
  struct ifreq up = {.ifr_name = "lan0", .ifr_flags = IFF_UP};
  const int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  return ioctl(control, SIOCSIFFLAGS, &up) < 0 ? -1 : close(control);
}

static int Send(const char* path, int count) {
  struct sockaddr_un to = {.sun_family = AF_UNIX};
  strncpy(to.sun_path, path, sizeof to.sun_path - 1);
  const int peer = socket(AF_UNIX, SOCK_STREAM, 0);
  if (connect(peer, (const struct sockaddr*)&to, sizeof to) < 0) return 1;
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(COUNT_MAX * sizeof(int))];
  } control = {{0}};
  struct iovec byte = {"t", 1};
  struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control};
  message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
  control.header.cmsg_level = SOL_SOCKET;
  control.header.cmsg_type = SCM_RIGHTS;
  control.header.cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
  for (int i = 0; i < count; ++i) ((int*)CMSG_DATA(&control.header))[i] = FIRST_FD + i;
  return sendmsg(peer, &message, 0) == 1 ? 0 : 1;
}

int main(int argc, char** argv) {
  const int count = argc > 2 ? atoi(argv[1]) : 0;
  if (count < 1 || count > COUNT_MAX) return 2;
  if (unshare(CLONE_NEWNET) < 0 || OpenTap(count) < 0) return 1;
  if (argc == 4 && strcmp(argv[2], "--send") == 0) return Send(argv[3], count);
  execvp(argv[2], argv + 2);
  return 1;
}
