/// A backend of vhost-user-net that moves the frames of a guest to and from a tap:
///
///     vhost-net listen PATH TAP    serves the VMMs that come there, one after the other
///     vhost-net connect PATH TAP   goes to the VMM that waits there, and again when it is gone
///
/// One pair of queues and no offloads, so a frame is a chain with a header of 12 bytes before it,
/// VIRTIO 1.2 §5.1.6. It is a test's, and trusts its guest.
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { RX, TX, QUEUES, REGIONS_MAX = 8, PIECES_MAX = 64, NET_HEADER_BYTES = 12 };
enum { FLAG_VERSION = 1, FLAG_REPLY = 4, FLAG_NEED_REPLY = 8 };

enum request {
  GET_FEATURES = 1,
  SET_MEM_TABLE = 5,
  SET_VRING_NUM = 8,
  SET_VRING_ADDR = 9,
  SET_VRING_BASE = 10,
  GET_VRING_BASE = 11,
  SET_VRING_KICK = 12,
  SET_VRING_CALL = 13,
  GET_PROTOCOL_FEATURES = 15,
  SET_VRING_ENABLE = 18,
};

static const uint64_t features = 1ull << 32 | 1ull << 30;  // VIRTIO 1, and protocol features
static const uint64_t protocol_features = 1ull << 3;       // REPLY_ACK

struct __attribute__((packed)) message {
  uint32_t request, flags, size;
  union {
    uint64_t u64;
    struct {
      uint32_t queue, value;
    } state;
    struct {
      uint32_t queue, flags;
      uint64_t desc, used, avail, log;
    } address;
    struct {
      uint32_t count, padding;
      struct {
        uint64_t gpa, size, address, offset;
      } regions[REGIONS_MAX];
    } memory;
  };
};
enum { HEADER_BYTES = 12 };

struct ring {
  uint32_t size;
  uint16_t next;  // of the chains that the driver has offered
  struct vring_desc* desc;
  struct vring_avail* avail;
  struct vring_used* used;
  int kick, call, enabled;
};

static struct {
  uint64_t address, size;
  char* bytes;
} regions[REGIONS_MAX];
static struct ring rings[QUEUES];
static int tap;

static void fail(const char* what) {
  perror(what);
  exit(1);
}

/// Guest addresses and those of the VMM are the same to it.
static void* at(uint64_t address) {
  for (int i = 0; i < REGIONS_MAX; i++)
    if (address - regions[i].address < regions[i].size)
      return regions[i].bytes + (address - regions[i].address);
  fprintf(stderr, "no memory at %lx\n", address);
  exit(1);
}

static void close_fd(int* fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

static void forget(void) {
  for (int i = 0; i < REGIONS_MAX; i++) {
    if (regions[i].size > 0) munmap(regions[i].bytes, regions[i].size);
    regions[i].size = 0;
  }
  for (int i = 0; i < QUEUES; i++) {
    close_fd(&rings[i].kick);
    close_fd(&rings[i].call);
    rings[i].enabled = 0;
  }
}

/// Offsets in the file are multiples of a page, for RAM is.
static void map(const struct message* message, const int* fds) {
  for (int i = 0; i < REGIONS_MAX; i++) {
    if (regions[i].size > 0) munmap(regions[i].bytes, regions[i].size);
    regions[i].size = 0;
  }
  for (uint32_t i = 0; i < message->memory.count && i < REGIONS_MAX; i++) {
    const uint64_t size = message->memory.regions[i].size;
    void* bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i],
                       (off_t)message->memory.regions[i].offset);
    if (bytes == MAP_FAILED) fail("mmap");
    regions[i].address = message->memory.regions[i].address;
    regions[i].size = size;
    regions[i].bytes = bytes;
  }
}

/// The chain at `head` as memory; how many pieces it has.
static int gather(const struct ring* ring, uint16_t head, struct iovec* pieces) {
  int count = 0;
  for (uint16_t i = head;; i = ring->desc[i].next) {
    pieces[count++] = (struct iovec){at(ring->desc[i].addr), ring->desc[i].len};
    if ((ring->desc[i].flags & VRING_DESC_F_NEXT) == 0 || count == PIECES_MAX) return count;
  }
}

/// False if the driver has offered no more.
static int take(struct ring* ring, uint16_t* head) {
  if (!ring->enabled || ring->kick < 0) return 0;
  if (__atomic_load_n(&ring->avail->idx, __ATOMIC_ACQUIRE) == ring->next) return 0;
  *head = ring->avail->ring[ring->next++ % ring->size];
  return 1;
}

static void complete(struct ring* ring, uint16_t head, uint32_t bytes) {
  const uint16_t index = ring->used->idx;
  ring->used->ring[index % ring->size] = (struct vring_used_elem){head, bytes};
  __atomic_store_n(&ring->used->idx, (uint16_t)(index + 1), __ATOMIC_SEQ_CST);
  if ((__atomic_load_n(&ring->avail->flags, __ATOMIC_SEQ_CST) & VRING_AVAIL_F_NO_INTERRUPT) != 0)
    return;
  const uint64_t one = 1;
  if (write(ring->call, &one, sizeof(one)) < 0) fail("interrupt");
}

static void send_frames(void) {
  struct iovec pieces[PIECES_MAX];
  uint16_t head;
  while (take(&rings[TX], &head)) {
    const int count = gather(&rings[TX], head, pieces);
    if (writev(tap, pieces, count) < 0) perror("a frame is lost");
    complete(&rings[TX], head, 0);
  }
}

/// Those that the guest has no room for are dropped.
static void receive_frames(void) {
  static char lost[65536];
  struct iovec pieces[PIECES_MAX];
  for (;;) {
    uint16_t head;
    if (!take(&rings[RX], &head)) {
      while (read(tap, lost, sizeof(lost)) > 0) continue;
      return;
    }
    const int count = gather(&rings[RX], head, pieces);
    const ssize_t got = readv(tap, pieces, count);
    if (got <= 0) {
      rings[RX].next--;
      return;
    }
    if (pieces[0].iov_len >= NET_HEADER_BYTES) ((char*)pieces[0].iov_base)[10] = 1;  // num_buffers
    complete(&rings[RX], head, (uint32_t)got);
  }
}

static void set_fd(const struct message* message, int fd) {
  struct ring* const ring = &rings[message->u64 & 1];
  int* const to = message->request == SET_VRING_KICK ? &ring->kick : &ring->call;
  close_fd(to);
  *to = fd;
}

static void set_addresses(const struct message* message) {
  struct ring* const ring = &rings[message->address.queue & 1];
  ring->desc = at(message->address.desc);
  ring->avail = at(message->address.avail);
  ring->used = at(message->address.used);
}

/// Puts into `message` what it is to be answered; false if nothing.
static int obey(struct message* message, const int* fds) {
  struct ring* const ring = &rings[message->state.queue & 1];
  switch (message->request) {
    case GET_FEATURES:
      return message->u64 = features, 1;
    case GET_PROTOCOL_FEATURES:
      return message->u64 = protocol_features, 1;
    case GET_VRING_BASE:
      ring->enabled = 0;
      return message->state.value = ring->next, 1;
    case SET_MEM_TABLE:
      map(message, fds);
      break;
    case SET_VRING_NUM:
      ring->size = message->state.value;
      break;
    case SET_VRING_BASE:
      ring->next = (uint16_t)message->state.value;
      break;
    case SET_VRING_ADDR:
      set_addresses(message);
      break;
    case SET_VRING_KICK:
    case SET_VRING_CALL:
      set_fd(message, fds[0]);
      break;
    case SET_VRING_ENABLE:
      ring->enabled = (int)message->state.value;
      break;
    default:
      break;
  }
  message->u64 = 0;
  return (message->flags & FLAG_NEED_REPLY) != 0;
}

/// A header with its descriptors, which are -1 where there are none. False at the end.
static int hear(int connection, struct message* message, int* fds) {
  char control[CMSG_SPACE(sizeof(int) * REGIONS_MAX)];
  struct iovec header = {message, HEADER_BYTES};
  struct msghdr from = {.msg_iov = &header, .msg_iovlen = 1};
  from.msg_control = control;
  from.msg_controllen = sizeof(control);
  memset(fds, -1, sizeof(int) * REGIONS_MAX);
  if (recvmsg(connection, &from, MSG_WAITALL | MSG_CMSG_CLOEXEC) != HEADER_BYTES) return 0;
  const struct cmsghdr* const rights = CMSG_FIRSTHDR(&from);
  if (rights != NULL) memcpy(fds, CMSG_DATA(rights), rights->cmsg_len - CMSG_LEN(0));
  char* const payload = (char*)message + HEADER_BYTES;
  if (message->size > sizeof(*message) - HEADER_BYTES) return 0;
  if (message->size == 0) return 1;  // a read of nothing would wait for something
  return recv(connection, payload, message->size, MSG_WAITALL) == (ssize_t)message->size;
}

/// False when the VMM is gone.
static int converse(int connection) {
  struct message message = {0};
  int fds[REGIONS_MAX];
  if (!hear(connection, &message, fds)) return 0;
  const int answers = obey(&message, fds);
  if (message.request == SET_MEM_TABLE)
    for (int i = 0; i < REGIONS_MAX; i++) close_fd(&fds[i]);
  if (!answers) return 1;
  message.flags = FLAG_VERSION | FLAG_REPLY;
  message.size = sizeof(message.u64);
  return send(connection, &message, HEADER_BYTES + message.size, 0) > 0;
}

static void serve(int connection) {
  for (;;) {
    struct pollfd watched[] = {{connection, POLLIN, 0},
                               {tap, POLLIN, 0},
                               {rings[RX].kick, POLLIN, 0},
                               {rings[TX].kick, POLLIN, 0}};
    if (poll(watched, 4, -1) < 0) fail("poll");
    uint64_t kicks;
    for (int i = 2; i < 4; i++)
      if (watched[i].revents != 0 && read(watched[i].fd, &kicks, sizeof(kicks)) < 0) fail("kick");
    if (watched[0].revents != 0 && !converse(connection)) return;
    send_frames();
    receive_frames();
  }
}

static void open_tap(const char* name) {
  struct ifreq interface = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
  const int header_bytes = NET_HEADER_BYTES;
  strncpy(interface.ifr_name, name, IFNAMSIZ - 1);
  tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (tap < 0 || ioctl(tap, TUNSETIFF, &interface) < 0) fail("tap");
  if (ioctl(tap, TUNSETVNETHDRSZ, &header_bytes) < 0) fail("TUNSETVNETHDRSZ");
}

static int connect_to(const struct sockaddr_un* address) {
  for (;; usleep(50000)) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (const struct sockaddr*)address, sizeof(*address)) == 0) return fd;
    close(fd);
  }
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  signal(SIGPIPE, SIG_IGN);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, argv[2], sizeof(address.sun_path) - 1);
  const int listens = strcmp(argv[1], "listen") == 0;
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  for (int i = 0; i < QUEUES; i++) rings[i].kick = rings[i].call = -1;
  open_tap(argv[3]);
  if (listens) {
    unlink(address.sun_path);
    if (bind(listener, (const struct sockaddr*)&address, sizeof(address)) < 0) fail("bind");
    if (listen(listener, 1) < 0) fail("listen");
  }
  for (;;) {
    const int connection = listens ? accept(listener, NULL, NULL) : connect_to(&address);
    if (connection < 0) fail("accept");
    serve(connection);
    close(connection);
    forget();
  }
}
