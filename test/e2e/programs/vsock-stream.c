/// Streams between a guest and its host, at either end of them:
///
///     vsock-stream serve ADDRESS COUNT BYTES ORDER   takes so many connections
///     vsock-stream dial ADDRESS COUNT BYTES ORDER    makes them, all at once
///     vsock-stream knock ADDRESS                     says why it is turned away, if it is
///     vsock-stream receive ADDRESS                   takes one and reads it to its end
///     vsock-stream send ADDRESS SECONDS              writes 64 KiB at a time for so long
///     vsock-stream echo ADDRESS                      answers each byte, in the background
///     vsock-stream ask ADDRESS SECONDS               one byte after the other
///
/// With `serve` and `dial` each end sends BYTES and shuts its half, and each checks every byte that
/// it gets: ORDER is `both` at once, or what the end does, `send-first` or `receive-first`.
/// `receive` and `send` print the microseconds of a MiB, `ask` those of an exchange.
///
/// An address is `vsock:CID:PORT`, `unix:PATH`, or `guest:PATH:PORT`, a port of the guest whose
/// VMM has its socket at PATH.
#include <errno.h>
#include <linux/vm_sockets.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER_BYTES = 65536, WORDS = BUFFER_BYTES / 8, CONNECT_TRIES = 100, STREAMS_MAX = 1000 };

struct address {
  union {
    struct sockaddr any;
    struct sockaddr_un unix_path;
    struct sockaddr_vm vsock;
  } socket;
  socklen_t bytes;
  const char* guest_port;  // of `guest:`, else null
};

struct stream {
  int fd;
  uint64_t name;  // what its bytes come of; the end that dials tells the other first of all
};

static uint64_t stream_bytes;
static const char* order;
static int dials;

static void fail(const char* what) {
  perror(what);
  exit(1);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static struct address parse(char* text) {
  struct address address = {0};
  struct sockaddr_vm* const vsock = &address.socket.vsock;
  char* const last = strrchr(text, ':');
  if (sscanf(text, "vsock:%u:%u", &vsock->svm_cid, &vsock->svm_port) == 2) {
    vsock->svm_family = AF_VSOCK;
    address.bytes = sizeof(*vsock);
    return address;
  }
  const int in_guest = strncmp(text, "guest:", 6) == 0;
  if (last == NULL || (!in_guest && strncmp(text, "unix:", 5) != 0)) exit(2);
  if (in_guest) {
    *last = 0;
    address.guest_port = last + 1;
  }
  struct sockaddr_un* const path = &address.socket.unix_path;
  path->sun_family = AF_UNIX;
  address.bytes = sizeof(*path);
  strncpy(path->sun_path, strchr(text, ':') + 1, sizeof(path->sun_path) - 1);
  return address;
}

static int listen_at(const struct address* address) {
  const int fd = socket(address->socket.any.sa_family, SOCK_STREAM, 0);
  if (fd < 0) fail("socket");
  if (address->socket.any.sa_family == AF_UNIX) unlink(address->socket.unix_path.sun_path);
  if (bind(fd, &address->socket.any, address->bytes) < 0) fail("bind");
  if (listen(fd, STREAMS_MAX) < 0) fail("listen");
  return fd;
}

static int accept_from(int listener) {
  const int fd = accept(listener, NULL, NULL);
  if (fd < 0) fail("accept");
  return fd;
}

/// The VMM says `OK` with a port, once somebody listens, or nothing more.
static int greet(int fd, const char* port) {
  char byte = 0;
  int said = 0;
  if (dprintf(fd, "CONNECT %s\n", port) > 0)
    while (byte != '\n' && read(fd, &byte, 1) == 1) said++;
  if (byte == '\n' && said > 4) return 0;
  errno = ECONNRESET;
  return -1;
}

static int try_to_connect(const struct address* address) {
  const int fd = socket(address->socket.any.sa_family, SOCK_STREAM, 0);
  if (fd < 0) fail("socket");
  if (connect(fd, &address->socket.any, address->bytes) == 0 &&
      (address->guest_port == NULL || greet(fd, address->guest_port) == 0))
    return fd;
  const int why = errno;
  close(fd);
  errno = why;
  return -1;
}

/// Who is to listen may not do so yet.
static int connect_to(const struct address* address, int tries) {
  for (;; usleep(100000)) {
    const int fd = try_to_connect(address);
    if (fd >= 0) return fd;
    if (--tries == 0) fail("connect");
  }
}

static void write_all(int fd, const void* bytes, size_t count) {
  for (size_t sent = 0; sent < count;) {
    const ssize_t taken = send(fd, (const char*)bytes + sent, count - sent, 0);
    if (taken < 0) fail("send");
    sent += (size_t)taken;
  }
}

/// Both ends know what comes next.
static void fill(uint64_t* words, uint64_t* random) {
  uint64_t x = *random;
  for (size_t i = 0; i < WORDS; i++) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    words[i] = x;
  }
  *random = x;
}

static size_t piece_of(uint64_t left) {
  return left < BUFFER_BYTES ? (size_t)left : (size_t)BUFFER_BYTES;
}

static void* send_half(void* argument) {
  const struct stream* const stream = argument;
  uint64_t words[WORDS];
  uint64_t random = dials ? stream->name : ~stream->name;
  for (uint64_t left = stream_bytes; left > 0; left -= piece_of(left)) {
    fill(words, &random);
    write_all(stream->fd, words, piece_of(left));
  }
  if (shutdown(stream->fd, SHUT_WR) < 0) fail("shutdown");
  return NULL;
}

static void receive_half(const struct stream* stream) {
  uint64_t expected[WORDS], words[WORDS];
  uint64_t random = dials ? ~stream->name : stream->name;
  for (uint64_t left = stream_bytes; left > 0; left -= piece_of(left)) {
    fill(expected, &random);
    const ssize_t got = recv(stream->fd, words, piece_of(left), MSG_WAITALL);
    if (got < 0) fail("recv");
    if ((size_t)got != piece_of(left) || memcmp(words, expected, (size_t)got) != 0) {
      fprintf(stderr, "stream %lu: wrong bytes, %lu before its end\n", stream->name, left);
      exit(1);
    }
  }
  if (recv(stream->fd, words, 1, 0) != 0) fail("the end of a stream");
}

static void* run_stream(void* argument) {
  struct stream* const stream = argument;
  if (dials)
    write_all(stream->fd, &stream->name, sizeof(stream->name));
  else if (recv(stream->fd, &stream->name, sizeof(stream->name), MSG_WAITALL) != 8)
    fail("the name of a stream");
  if (strcmp(order, "send-first") == 0) {
    send_half(stream);
    receive_half(stream);
  } else if (strcmp(order, "receive-first") == 0) {
    receive_half(stream);
    send_half(stream);
  } else {
    pthread_t sender;
    if (pthread_create(&sender, NULL, send_half, stream) != 0) fail("pthread_create");
    receive_half(stream);
    pthread_join(sender, NULL);
  }
  close(stream->fd);
  return NULL;
}

static void run_streams(const struct address* address, int count) {
  static struct stream streams[STREAMS_MAX];
  static pthread_t threads[STREAMS_MAX];
  if (count > STREAMS_MAX) exit(2);
  const int listener = dials ? -1 : listen_at(address);
  for (int i = 0; i < count; i++) {
    const int fd = dials ? connect_to(address, i == 0 ? CONNECT_TRIES : 1) : accept_from(listener);
    streams[i] = (struct stream){.fd = fd, .name = (uint64_t)i + 1};
    if (pthread_create(&threads[i], NULL, run_stream, &streams[i]) != 0) fail("pthread_create");
  }
  for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
  printf("%d streams of %lu bytes each way\n", count, stream_bytes);
}

static void print_pace(double started, uint64_t bytes) {
  printf("%.1f\n", (now() - started) * 1e6 * 1048576 / (double)bytes);
}

static void receive(const struct address* address) {
  static char buffer[BUFFER_BYTES];
  const int fd = accept_from(listen_at(address));
  uint64_t bytes = 0;
  const double started = now();
  for (;;) {
    const ssize_t got = read(fd, buffer, sizeof(buffer));
    if (got < 0) fail("read");
    if (got == 0) break;
    bytes += (uint64_t)got;
  }
  print_pace(started, bytes);
}

/// Until the other end has closed, for then it has all.
static void send_for(const struct address* address, double seconds) {
  static char buffer[BUFFER_BYTES];
  const int fd = connect_to(address, CONNECT_TRIES);
  uint64_t bytes = 0;
  const double started = now();
  for (; now() < started + seconds; bytes += sizeof(buffer)) write_all(fd, buffer, sizeof(buffer));
  shutdown(fd, SHUT_WR);
  if (recv(fd, buffer, 1, 0) != 0) fail("the end of a stream");
  print_pace(started, bytes);
}

static void echo(const struct address* address) {
  const int listener = listen_at(address);
  if (daemon(0, 0) < 0) fail("daemon");  // whoever started it knows now that it listens
  for (;;) {
    const int fd = accept_from(listener);
    char byte;
    while (read(fd, &byte, 1) == 1 && write(fd, &byte, 1) == 1) {
    }
    close(fd);
  }
}

static void ask(const struct address* address, double seconds) {
  const int fd = connect_to(address, CONNECT_TRIES);
  const double started = now();
  long exchanges = 0;
  char byte = 0;
  for (; now() < started + seconds; exchanges++)
    if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1) fail("exchange");
  printf("%.1f\n", (now() - started) * 1e6 / (double)exchanges);
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  signal(SIGPIPE, SIG_IGN);  // whose peer is gone says so
  const struct address address = parse(argv[2]);
  const char* const verb = argv[1];
  dials = strcmp(verb, "dial") == 0;
  if (argc == 6 && (dials || strcmp(verb, "serve") == 0)) {
    stream_bytes = strtoull(argv[4], NULL, 10);
    order = argv[5];
    run_streams(&address, atoi(argv[3]));
  } else if (argc == 3 && strcmp(verb, "knock") == 0) {
    puts(try_to_connect(&address) < 0 ? strerror(errno) : "welcome");
  } else if (argc == 3 && strcmp(verb, "receive") == 0) {
    receive(&address);
  } else if (argc == 4 && strcmp(verb, "send") == 0) {
    send_for(&address, atof(argv[3]));
  } else if (argc == 3 && strcmp(verb, "echo") == 0) {
    echo(&address);
  } else if (argc == 4 && strcmp(verb, "ask") == 0) {
    ask(&address, atof(argv[3]));
  } else {
    return 2;
  }
  return 0;
}
