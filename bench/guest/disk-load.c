/// Loads a block device or a file in the guest and says what came through. No library: its figures
/// shall be those of the device.
///
///     disk-load DEVICE read|write random|sequential BYTES DEPTH SECONDS [THREADS]
///
/// prints the requests a second of all threads together; thread n runs on CPU n.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DEPTH_MAX 256
#define ALIGN_BYTES 4096

struct load {
  const char* device;
  int writes, random;
  size_t request_bytes;
  int depth;
  double seconds;
};

struct worker {
  const struct load* load;
  int cpu;
  uint64_t random_state, next, done;
};

static void fail(const char* what) {
  perror(what);
  exit(1);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static uint64_t next_offset(struct worker* worker, uint64_t requests) {
  uint64_t index = worker->next++;
  if (worker->load->random) {
    worker->random_state = worker->random_state * 6364136223846793005u + 1442695040888963407u;
    index = worker->random_state >> 33;
  }
  return index % requests * worker->load->request_bytes;
}

static uint64_t size_of(int fd) {
  struct stat about;
  if (fstat(fd, &about) < 0) fail("fstat");
  uint64_t bytes = (uint64_t)about.st_size;
  if (S_ISBLK(about.st_mode) && ioctl(fd, BLKGETSIZE64, &bytes) < 0) fail("BLKGETSIZE64");
  return bytes;
}

static void* run(void* argument) {
  struct worker* worker = argument;
  const struct load* load = worker->load;
  cpu_set_t cpu;
  CPU_ZERO(&cpu);
  CPU_SET(worker->cpu, &cpu);
  sched_setaffinity(0, sizeof(cpu), &cpu);
  const int fd = open(load->device, (load->writes ? O_RDWR : O_RDONLY) | O_DIRECT);
  if (fd < 0) fail(load->device);
  const uint64_t requests = size_of(fd) / load->request_bytes;
  worker->random_state = (uint64_t)worker->cpu + 1;
  worker->next = requests / 2 * (uint64_t)worker->cpu;

  aio_context_t context = 0;
  if (syscall(SYS_io_setup, load->depth, &context) < 0) fail("io_setup");
  struct iocb requests_of[DEPTH_MAX], *queued[DEPTH_MAX];
  struct io_event events[DEPTH_MAX];
  void* buffers;
  if (posix_memalign(&buffers, ALIGN_BYTES, load->request_bytes * (size_t)load->depth) != 0)
    fail("posix_memalign");
  memset(buffers, 0x5a, load->request_bytes * (size_t)load->depth);
  for (int i = 0; i < load->depth; i++) {
    memset(&requests_of[i], 0, sizeof(requests_of[i]));
    requests_of[i].aio_fildes = (uint32_t)fd;
    requests_of[i].aio_lio_opcode = load->writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
    requests_of[i].aio_buf = (uint64_t)buffers + load->request_bytes * (size_t)i;
    requests_of[i].aio_nbytes = load->request_bytes;
    queued[i] = &requests_of[i];
  }
  long count = load->depth;
  const double end = now() + load->seconds;
  do {
    for (long i = 0; i < count; i++) queued[i]->aio_offset = (int64_t)next_offset(worker, requests);
    for (long sent = 0; sent < count;) {
      const long taken = syscall(SYS_io_submit, context, count - sent, queued + sent);
      if (taken < 0) fail("io_submit");
      sent += taken;
    }
    count = syscall(SYS_io_getevents, context, 1, load->depth, events, NULL);
    if (count < 0) fail("io_getevents");
    for (long i = 0; i < count; i++) {
      if (events[i].res != (int64_t)load->request_bytes) {
        fprintf(stderr, "a request ended with %lld\n", (long long)events[i].res);
        exit(1);
      }
      queued[i] = (struct iocb*)events[i].obj;
    }
    worker->done += (uint64_t)count;
  } while (now() < end);
  return NULL;
}

int main(int argc, char** argv) {
  if (argc < 7) {
    fprintf(stderr,
            "disk-load DEVICE read|write random|sequential BYTES DEPTH SECONDS [THREADS]\n");
    return 2;
  }
  const struct load load = {argv[1],
                            strcmp(argv[2], "write") == 0,
                            strcmp(argv[3], "random") == 0,
                            strtoul(argv[4], NULL, 10),
                            atoi(argv[5]),
                            atof(argv[6])};
  const int threads = argc > 7 ? atoi(argv[7]) : 1;
  if (load.depth < 1 || load.depth > DEPTH_MAX || threads < 1 || threads > 8) return 2;
  struct worker workers[8] = {0};
  pthread_t ids[8];
  const double started = now();
  for (int i = 0; i < threads; i++) {
    workers[i] = (struct worker){.load = &load, .cpu = i};
    if (pthread_create(&ids[i], NULL, run, &workers[i]) != 0) fail("pthread_create");
  }
  uint64_t done = 0;
  for (int i = 0; i < threads; i++) {
    pthread_join(ids[i], NULL);
    done += workers[i].done;
  }
  printf("%.0f\n", (double)done / (now() - started));
  return 0;
}
