/// One TCP connection with random bytes, of which both ends say how many they saw and a checksum:
///
///     tcp-stream receive                  takes one connection and reads it to its end
///     tcp-stream send ADDRESS BYTES       sends so many there, and waits until all were taken
///
/// Emulated CPUs take a tenth of the time for this that they take for tools of general use.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PORT = 7000, WORDS = 32768, CONNECT_TRIES = 100 };

struct stream {
  int socket;
  uint64_t bytes, checksum, random;
};

static uint64_t buffer[WORDS];

static void fail(const char* what) {
  perror(what);
  exit(1);
}

/// Adds what is in the buffer; the order of words counts.
static void count(struct stream* stream, size_t bytes) {
  memset((char*)buffer + bytes, 0, -bytes & 7);
  for (size_t i = 0; i < (bytes + 7) / 8; i++)
    stream->checksum =
        ((stream->checksum << 5 | stream->checksum >> 59) ^ buffer[i]) * 0x9e3779b97f4a7c15u;
  stream->bytes += bytes;
}

static void fill(struct stream* stream) {
  uint64_t x = stream->random;
  for (size_t i = 0; i < WORDS; i++) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    buffer[i] = x;
  }
  stream->random = x;
}

static void receive(struct stream* stream) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  const int on = 1;
  const struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(PORT)};
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(listener, (const struct sockaddr*)&any, sizeof(any)) < 0) fail("bind");
  if (listen(listener, 1) < 0) fail("listen");
  stream->socket = accept(listener, NULL, NULL);
  if (stream->socket < 0) fail("accept");
  for (;;) {
    const ssize_t got = recv(stream->socket, buffer, sizeof(buffer), MSG_WAITALL);
    if (got < 0) fail("recv");
    if (got == 0) return;
    count(stream, (size_t)got);
  }
}

/// The other end may still be about to listen.
static void connect_to(struct stream* stream, const char* address) {
  struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(PORT)};
  if (inet_pton(AF_INET, address, &peer.sin_addr) != 1) exit(2);
  for (int i = 0; i < CONNECT_TRIES; i++, usleep(100000)) {
    stream->socket = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(stream->socket, (const struct sockaddr*)&peer, sizeof(peer)) == 0) return;
    close(stream->socket);
    if (errno != ECONNREFUSED) break;
  }
  fail("connect");
}

static void send_all(struct stream* stream, const char* address, uint64_t bytes) {
  connect_to(stream, address);
  while (stream->bytes < bytes) {
    const uint64_t left = bytes - stream->bytes;
    const size_t piece = left < sizeof(buffer) ? (size_t)left : sizeof(buffer);
    fill(stream);
    for (size_t sent = 0; sent < piece;) {
      const ssize_t taken = send(stream->socket, (char*)buffer + sent, piece - sent, 0);
      if (taken < 0) fail("send");
      sent += (size_t)taken;
    }
    count(stream, piece);
  }
  shutdown(stream->socket, SHUT_WR);
  if (recv(stream->socket, buffer, 1, 0) < 0) fail("recv");
}

int main(int argc, char** argv) {
  struct stream stream = {.random = 0x2545f4914f6cdd1du};
  if (argc == 2 && strcmp(argv[1], "receive") == 0)
    receive(&stream);
  else if (argc == 4 && strcmp(argv[1], "send") == 0)
    send_all(&stream, argv[2], strtoull(argv[3], NULL, 10));
  else
    return 2;
  printf("%llu bytes, checksum %016llx\n", (unsigned long long)stream.bytes,
         (unsigned long long)stream.checksum);
  return 0;
}
