/// Requests and responses of one byte over TCP, one at a time, for the latency of a network:
///
///     tcp-echo serve                    answers whoever connects, one after another
///     tcp-echo ask ADDRESS SECONDS      prints the microseconds of an exchange, mean
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PORT = 7001 };

static void fail(const char* what) {
  perror(what);
  exit(1);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int tcp_socket(void) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  const int on = 1;
  if (fd < 0) fail("socket");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  return fd;
}

static void serve(void) {
  const int listener = tcp_socket();
  const struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(PORT)};
  if (bind(listener, (const struct sockaddr*)&any, sizeof(any)) < 0) fail("bind");
  if (listen(listener, 1) < 0) fail("listen");
  if (daemon(0, 0) < 0) fail("daemon");  // whoever started it knows now that it listens
  for (;;) {
    const int fd = accept(listener, NULL, NULL);
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    char byte;
    while (read(fd, &byte, 1) == 1 && write(fd, &byte, 1) == 1) {
    }
    close(fd);
  }
}

static void ask(const char* address, double seconds) {
  struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(PORT)};
  if (inet_pton(AF_INET, address, &peer.sin_addr) != 1) exit(2);
  const int fd = tcp_socket();
  if (connect(fd, (const struct sockaddr*)&peer, sizeof(peer)) < 0) fail("connect");
  const double started = now();
  long exchanges = 0;
  char byte = 0;
  for (; now() < started + seconds; exchanges++)
    if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1) fail("exchange");
  printf("%.1f\n", (now() - started) * 1e6 / (double)exchanges);
}

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "serve") == 0)
    serve();
  else if (argc == 4 && strcmp(argv[1], "ask") == 0)
    ask(argv[2], atof(argv[3]));
  else
    return 2;
  return 0;
}
