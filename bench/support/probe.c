/// Starts a program and says when it does something, in nanoseconds after exec.
///
///   probe reply SOCKET REQUEST PREFIX -- PROGRAM ARG...   "CONNECTABLE REPLY": the socket accepts,
///       and the first bytes it sends after REQUEST (may be empty) start with PREFIX
///   probe byte -- PROGRAM ARG...                          "BYTE": something stands on its stdout
///   probe boot SOCKET CREATE BOOT -- PROGRAM ARG...       "BYTE": the same, after both requests
///       were answered
///   probe ping SOCKET REQUEST COUNT                       "P50 P99" of so many answers, one after
///       another on one connection, of a program that runs already
///
///   probe text TEXT SOCKET [REQUEST PREFIX]... REQUEST -- PROGRAM ARG...
///       "EXEC ASKED EXITS": TEXT stands on its stdout so long after exec, and so long after the
///       last REQUEST; each is sent once that before is answered. EXITS is how often the guests of
///       this host have left for KVM, 0 where debugfs does not tell
///
/// The program is killed then. It gets PATH and nothing else of the environment, no stdin, and its
/// stderr goes nowhere. Exit status 1: not within 10 s, a minute for a text, or not with PREFIX or
/// 20x.
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const int64_t kPatienceNs = 10000000000;

static int64_t Now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static pid_t child;

static _Noreturn void Finish(int status) {
  if (child > 0) {
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
  }
  exit(status);
}

static void GiveUp(int signal) {
  (void)signal;
  Finish(1);
}

static void Start(char** argv, int out) {
  static char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  char* environment[] = {path, NULL};
  child = vfork();
  if (child != 0) return;
  const int null = open("/dev/null", O_RDWR);
  dup2(null, 0);
  dup2(out < 0 ? null : out, 1);
  dup2(null, 2);
  execve(argv[0], argv, environment);
  _exit(127);
}

/// Tries again every 20 µs: a failed connect(2) costs the program nothing.
static int Connect(const char* path, int64_t start) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  const struct timespec pause = {.tv_nsec = 20000};
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  while (connect(fd, (struct sockaddr*)&address, sizeof address) < 0) {
    if (Now() - start > kPatienceNs) Finish(1);
    nanosleep(&pause, NULL);
  }
  return fd;
}

/// One request and its answer, which starts with `prefix` and comes in one piece.
static void Ask(int fd, const char* request, const char* prefix) {
  char answer[4096];
  if (write(fd, request, strlen(request)) < 0) Finish(1);
  const ssize_t length = read(fd, answer, sizeof answer);
  const size_t wanted = strlen(prefix);
  if (length < (ssize_t)wanted || memcmp(answer, prefix, wanted) != 0) Finish(1);
}

static void Await(int out) {
  char byte;
  if (read(out, &byte, 1) != 1) Finish(1);
}

static void Print(intmax_t number) { printf("%jd ", number); }

static void Reply(char** argv) {
  const int64_t start = Now();
  Start(argv + 6, -1);
  const int fd = Connect(argv[2], start);
  Print(Now() - start);
  Ask(fd, argv[3], argv[4]);
  Print(Now() - start);
}

/// Until something stands on the program's stdout, after requests if there are some.
static void Byte(char** program, const char* socket, char** requests) {
  int out[2];
  if (pipe2(out, O_CLOEXEC) < 0) Finish(2);
  const int64_t start = Now();
  Start(program, out[1]);
  close(out[1]);
  if (socket) {
    const int fd = Connect(socket, start);
    Ask(fd, requests[0], "HTTP/1.1 20");
    Ask(fd, requests[1], "HTTP/1.1 20");
  }
  Await(out[0]);
  Print(Now() - start);
}

/// What stands in a small file as a number; 0 if it cannot be read.
static intmax_t NumberIn(const char* path) {
  char text[32] = "0";
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd >= 0 && read(fd, text, sizeof text - 1) < 0) text[0] = 0;
  close(fd);
  return strtoimax(text, NULL, 10);
}

/// Reads until `text` has come.
static void AwaitText(int fd, const char* text) {
  static char seen[1 << 20];
  size_t length = 0;
  while (strstr(seen, text) == NULL) {
    const ssize_t got = read(fd, seen + length, sizeof seen - 1 - length);
    if (got <= 0) Finish(1);
    length += (size_t)got;
  }
}

/// Sends the requests of `pairs`, each followed by how its answer starts, and the last.
/// @return when that was sent: its answer may come later than what it causes.
static int64_t AskAll(int fd, char** pairs) {
  for (; strcmp(pairs[1], "--") != 0; pairs += 2) Ask(fd, pairs[0], pairs[1]);
  const int64_t asked = Now();
  if (write(fd, pairs[0], strlen(pairs[0])) < 0) Finish(1);
  return asked;
}

static void Text(char** argv) {
  int out[2];
  char** program = argv + 2;
  while (strcmp(*program++, "--") != 0) continue;
  if (pipe2(out, O_CLOEXEC) < 0) Finish(2);
  alarm(60);
  const int64_t start = Now();
  Start(program, out[1]);
  close(out[1]);
  const int64_t asked = AskAll(Connect(argv[1], start), argv + 2);
  AwaitText(out[0], argv[0]);
  const int64_t end = Now();
  Print(end - start);
  Print(end - asked);
  Print(NumberIn("/sys/kernel/debug/kvm/exits"));
}

static int Compare(const void* a, const void* b) {
  const int64_t left = *(const int64_t*)a;
  const int64_t right = *(const int64_t*)b;
  return (left > right) - (left < right);
}

static void Ping(char** argv) {
  const size_t count = (size_t)atol(argv[4]);
  int64_t* taken = calloc(count, sizeof *taken);
  const int fd = Connect(argv[2], Now());
  for (size_t i = 0; i < count; ++i) {
    const int64_t sent = Now();
    Ask(fd, argv[3], "HTTP/1.1 20");
    taken[i] = Now() - sent;
  }
  qsort(taken, count, sizeof *taken, Compare);
  Print(taken[count / 2]);
  Print(taken[count * 99 / 100]);
}

int main(int argc, char** argv) {
  signal(SIGALRM, GiveUp);
  alarm(10);
  const char* mode = argc > 1 ? argv[1] : "";
  if (strcmp(mode, "byte") == 0 && argc > 3)
    Byte(argv + 3, NULL, NULL);
  else if (strcmp(mode, "boot") == 0 && argc > 6)
    Byte(argv + 6, argv[2], argv + 3);
  else if (strcmp(mode, "text") == 0 && argc > 5)
    Text(argv + 2);
  else if (strcmp(mode, "reply") == 0 && argc > 6)
    Reply(argv);
  else if (strcmp(mode, "ping") == 0 && argc == 5)
    Ping(argv);
  else
    return 2;
  Finish(0);
}
