/// A server of vfio-user with a small PCI device, for one VMM after the other:
///
///     vfio-user PATH [HOW]    HOW it is to fail, as told to the guest in a register
///
/// BAR 0 has registers, and a table of four MSI-X vectors in its second page; of the 64 KiB of
/// BAR 2 the second half can be mapped. The device copies guest memory, each bit turned. What the
/// VMM asks of it is told on stdout, a line each. It is a test's, and trusts its VMM.
#define _GNU_SOURCE
#include <linux/vfio.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum command {
  VERSION = 1,
  DMA_MAP = 2,
  DMA_UNMAP = 3,
  GET_INFO = 4,
  GET_REGION_INFO = 5,
  GET_IRQ_INFO = 7,
  SET_IRQS = 8,
  REGION_READ = 9,
  REGION_WRITE = 10,
  RESET = 13
};
enum { REPLY = 1, ERROR = 0x20, HEADER_BYTES = 16, PAYLOAD_BYTES_MAX = 4080, FDS_MAX = 8 };
enum { BAR0_BYTES = 0x4000, BAR2_BYTES = 0x10000, CONFIG_BYTES = 256, MAPPED_FROM = 0x8000 };
enum { VECTORS = 4, DMA_MAX = 16, MSIX = 0x40, VENDOR = 0x50 };

/// Registers of BAR 0.
enum {
  ID = 0,
  SCRATCH = 4,
  SOURCE = 8,
  TARGET = 16,
  LENGTH = 24,
  COPY = 28,    // written: copies, and signals vector 0; read: 1 if that went well
  RAISE = 32,   // written: signals that vector
  RANGES = 36,  // of guest memory that are known
  SHARED = 40,  // the first word of what can be mapped
  FAIL = 44,    // written: 1 ends the server, 2 has it never answer again
  RESETS = 48,
  HOW = 52,
};

struct __attribute__((packed)) message {
  uint16_t id, command;
  uint32_t size, flags, error;
  char payload[PAYLOAD_BYTES_MAX];
};

struct access {
  uint64_t offset;
  uint32_t region, count;
  char data[];
};

static struct {
  uint64_t gpa, size;
  char* bytes;
} ranges[DMA_MAX];
static int vectors[VECTORS] = {-1, -1, -1, -1};
static char config[CONFIG_BYTES];
static char registers[BAR0_BYTES];
static char* shared;
static int shared_file;
static uint32_t how;

static void put32(char* at, uint32_t value) { memcpy(at, &value, sizeof(value)); }
static uint32_t get32(const char* at) {
  uint32_t value;
  memcpy(&value, at, sizeof(value));
  return value;
}
static uint64_t get64(const char* at) {
  uint64_t value;
  memcpy(&value, at, sizeof(value));
  return value;
}

static void power_on(void) {
  memset(registers, 0, sizeof(registers));
  memset(config, 0, sizeof(config));
  put32(config, 0x7e571af4);
  put32(config + 4, 0x00100000);  // capabilities
  put32(config + 8, 0xff000001);  // of no class
  put32(config + 0x10, 4);        // BARs of 64 bits
  put32(config + 0x18, 4);
  put32(config + 0x2c, 0x00017e57);
  put32(config + 0x34, MSIX);
  put32(config + MSIX, (VECTORS - 1) << 16 | VENDOR << 8 | 0x11);
  put32(config + MSIX + 4, 0x1000);
  put32(config + MSIX + 8, 0x2000);
  put32(config + VENDOR, 0x00080009);
  put32(registers + ID, 0x7e57);
  put32(registers + HOW, how);
}

static void drop(int* fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

/// Guest memory, if one range has all of it.
static char* find(uint64_t gpa, uint64_t size) {
  for (int i = 0; i < DMA_MAX; i++)
    if (ranges[i].bytes && gpa >= ranges[i].gpa && gpa - ranges[i].gpa + size <= ranges[i].size)
      return ranges[i].bytes + (gpa - ranges[i].gpa);
  return NULL;
}

static void raise_vector(uint32_t n) {
  const uint64_t one = 1;
  if (n < VECTORS && vectors[n] >= 0 && write(vectors[n], &one, sizeof(one)) < 0) perror("vector");
}

static void copy(void) {
  const uint32_t length = get32(registers + LENGTH);
  const char* source = find(get64(registers + SOURCE), length);
  char* target = find(get64(registers + TARGET), length);
  const int is_master = config[4] & 4;
  if (source && target && is_master)
    for (uint32_t i = 0; i < length; i++) target[i] = (char)~source[i];
  put32(registers + COPY, source && target && is_master);
  raise_vector(0);
}

static int count_ranges(void) {
  int count = 0;
  for (int i = 0; i < DMA_MAX; i++) count += ranges[i].bytes != NULL;
  return count;
}

static char* region(uint32_t index, uint64_t* size) {
  *size = index == 0 ? BAR0_BYTES : index == 2 ? BAR2_BYTES : index == 7 ? CONFIG_BYTES : 0;
  return index == 0 ? registers : index == 2 ? shared : config;
}

static int is_within(const struct access* access) {
  uint64_t size;
  region(access->region, &size);
  return access->offset <= size && access->count <= size - access->offset;
}

static void read_region(struct access* access) {
  uint64_t size;
  const char* bytes = region(access->region, &size);
  put32(registers + RANGES, (uint32_t)count_ranges());
  put32(registers + SHARED, get32(shared + MAPPED_FROM));
  memcpy(access->data, bytes + access->offset, access->count);
}

static void write_region(const struct access* access) {
  uint64_t size;
  char* bytes = region(access->region, &size);
  memcpy(bytes + access->offset, access->data, access->count);
  if (access->region != 0) return;
  if (access->offset == COPY) copy();
  if (access->offset == RAISE) raise_vector(get32(registers + RAISE));
  if (access->offset == FAIL && registers[FAIL] == 1) _exit(0);
  while (access->offset == FAIL && registers[FAIL] == 2) pause();
}

static int map(const char* payload, int fd) {
  for (int i = 0; i < DMA_MAX; i++) {
    if (ranges[i].bytes) continue;
    const uint64_t size = get64(payload + 24);
    const int access = PROT_READ | (payload[4] & 2 ? PROT_WRITE : 0);
    char* bytes = mmap(NULL, size, access, MAP_SHARED, fd, (off_t)get64(payload + 8));
    if (bytes == MAP_FAILED) return 0;
    ranges[i].gpa = get64(payload + 16);
    ranges[i].size = size;
    ranges[i].bytes = bytes;
    printf("map %#lx %#lx\n", ranges[i].gpa, size);
    return 1;
  }
  return 0;
}

static void unmap(int i) {
  if (!ranges[i].bytes) return;
  printf("unmap %#lx %#lx\n", ranges[i].gpa, ranges[i].size);
  munmap(ranges[i].bytes, ranges[i].size);
  ranges[i].bytes = NULL;
}

static int unmap_at(const char* payload) {
  for (int i = 0; i < DMA_MAX; i++)
    if (ranges[i].bytes && ranges[i].gpa == get64(payload + 8)) return unmap(i), 1;
  return 0;
}

static uint32_t describe_region(char* payload, int* fd) {
  struct vfio_region_info info;
  memcpy(&info, payload, sizeof(info));
  uint64_t size;
  region(info.index, &size);
  info.size = size;
  info.offset = 0;
  info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
  if (info.index != 2) return memcpy(payload, &info, sizeof(info)), sizeof(info);
  info.flags |= VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS;
  info.cap_offset = sizeof(info);
  memcpy(payload, &info, sizeof(info));
  const struct vfio_region_info_cap_sparse_mmap sparse = {
      .header = {.id = VFIO_REGION_INFO_CAP_SPARSE_MMAP, .version = 1}, .nr_areas = 1};
  const uint64_t area[] = {MAPPED_FROM, BAR2_BYTES - MAPPED_FROM};
  memcpy(payload + sizeof(info), &sparse, sizeof(sparse));
  memcpy(payload + sizeof(info) + sizeof(sparse), area, sizeof(area));
  *fd = shared_file;
  return sizeof(info) + sizeof(sparse) + sizeof(area);
}

static void set_irqs(const char* payload, const int* fds, int fd_count) {
  const uint32_t index = get32(payload + 8), start = get32(payload + 12);
  if (index != VFIO_PCI_MSIX_IRQ_INDEX) return;
  if (fd_count == 0)
    for (int i = 0; i < VECTORS; i++) drop(&vectors[i]);
  for (int i = 0; i < fd_count && start + (uint32_t)i < VECTORS; i++) {
    drop(&vectors[start + (uint32_t)i]);
    vectors[start + (uint32_t)i] = dup(fds[i]);
  }
  printf("irqs %d\n", fd_count);
}

static uint32_t answer_version(char* payload) {
  put32(payload, 1u << 16);
  const char* text = "{\"capabilities\":{\"max_msg_fds\":2,\"max_data_xfer_size\":4096}}";
  strcpy(payload + 4, text);
  return (uint32_t)(4 + strlen(text) + 1);
}

/// The answer's payload takes the place of the command's: its size, or -1 for no.
static int answer(struct message* message, const int* fds, int fd_count, int* fd) {
  char* payload = message->payload;
  struct access* access = (struct access*)payload;
  switch (message->command) {
    case VERSION:
      return (int)answer_version(payload);
    case DMA_MAP:
      return fd_count == 1 && map(payload, fds[0]) ? 0 : -1;
    case DMA_UNMAP:
      return unmap_at(payload) ? 24 : -1;
    case GET_INFO:
      put32(payload + 4, VFIO_DEVICE_FLAGS_RESET | VFIO_DEVICE_FLAGS_PCI);
      put32(payload + 8, VFIO_PCI_NUM_REGIONS);
      put32(payload + 12, VFIO_PCI_NUM_IRQS);
      return 16;
    case GET_REGION_INFO:
      return (int)describe_region(payload, fd);
    case GET_IRQ_INFO:
      put32(payload + 4, VFIO_IRQ_INFO_EVENTFD);
      put32(payload + 12, get32(payload + 8) == VFIO_PCI_MSIX_IRQ_INDEX ? VECTORS : 0);
      return 16;
    case SET_IRQS:
      return set_irqs(payload, fds, fd_count), 0;
    case REGION_READ:
      if (!is_within(access)) return -1;
      return read_region(access), (int)(16 + access->count);
    case REGION_WRITE:
      if (!is_within(access)) return -1;
      return write_region(access), 16;
    case RESET: {
      const uint32_t resets = get32(registers + RESETS) + 1;
      power_on();
      put32(registers + RESETS, resets);
      return printf("reset\n"), 0;
    }
    default:
      return -1;
  }
}

static int receive_all(int client, char* into, size_t size) {
  for (size_t got = 0; got < size;) {
    const ssize_t n = recv(client, into + got, size - got, 0);
    if (n <= 0) return 0;
    got += (size_t)n;
  }
  return 1;
}

/// Descriptors come with the first byte of what they were sent with.
static int receive(int client, struct message* message, int* fds, int* fd_count) {
  char control[CMSG_SPACE(sizeof(int) * FDS_MAX)];
  struct iovec header = {message, HEADER_BYTES};
  struct msghdr parts = {.msg_iov = &header,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof(control)};
  if (recvmsg(client, &parts, MSG_WAITALL) != HEADER_BYTES) return 0;
  *fd_count = 0;
  const struct cmsghdr* part = CMSG_FIRSTHDR(&parts);
  if (part && part->cmsg_type == SCM_RIGHTS) {
    *fd_count = (int)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(fds, CMSG_DATA(part), sizeof(int) * (size_t)*fd_count);
  }
  return message->size >= HEADER_BYTES && message->size <= sizeof(*message) &&
         receive_all(client, message->payload, message->size - HEADER_BYTES);
}

static int send_answer(int client, struct message* message, int size, int fd) {
  message->flags = REPLY | (size < 0 ? ERROR : 0);
  message->error = size < 0 ? 22 : 0;
  message->size = HEADER_BYTES + (uint32_t)(size < 0 ? 0 : size);
  char control[CMSG_SPACE(sizeof(int))] = {0};
  struct iovec all = {message, message->size};
  struct msghdr parts = {.msg_iov = &all, .msg_iovlen = 1};
  if (fd >= 0) {
    parts.msg_control = control;
    parts.msg_controllen = sizeof(control);
    struct cmsghdr* part = CMSG_FIRSTHDR(&parts);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(part), &fd, sizeof(int));
  }
  return sendmsg(client, &parts, MSG_NOSIGNAL) == (ssize_t)message->size;
}

static void serve(int client) {
  static struct message message;
  int fds[FDS_MAX], fd_count;
  printf("connected\n");
  while (receive(client, &message, fds, &fd_count)) {
    int fd = -1;
    const int size = answer(&message, fds, fd_count, &fd);
    for (int i = 0; i < fd_count; i++) close(fds[i]);
    if (!send_answer(client, &message, size, fd)) break;
  }
  for (int i = 0; i < DMA_MAX; i++) unmap(i);
  for (int i = 0; i < VECTORS; i++) drop(&vectors[i]);
  close(client);
  printf("gone\n");
}

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) return 2;
  if (argc == 3) how = (uint32_t)atoi(argv[2]);
  setvbuf(stdout, NULL, _IOLBF, 0);
  struct sockaddr_un place = {.sun_family = AF_UNIX};
  strncpy(place.sun_path, argv[1], sizeof(place.sun_path) - 1);
  unlink(argv[1]);
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  shared_file = memfd_create("bar2", MFD_CLOEXEC);
  if (ftruncate(shared_file, BAR2_BYTES) < 0) return perror("ftruncate"), 1;
  shared = mmap(NULL, BAR2_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, shared_file, 0);
  if (shared == MAP_FAILED || bind(listener, (struct sockaddr*)&place, sizeof(place)) < 0 ||
      listen(listener, 4) < 0)
    return perror(argv[1]), 1;
  power_on();
  printf("ready\n");
  for (;;) serve(accept(listener, NULL, NULL));
}
