/// Starts a program and says when it does something, in nanoseconds after exec.
///
///   probe reply SOCKET REQUEST PREFIX -- PROGRAM ARG...   "CONNECTABLE REPLY": the socket accepts,
///       and the first bytes it sends after REQUEST (may be empty) start with PREFIX
///   probe byte -- PROGRAM ARG...                          "BYTE": something stands on its stdout
///   probe text TEXT SOCKET [REQUEST PREFIX]... REQUEST -- PROGRAM ARG...
///       "EXEC ASKED EXITS": TEXT stands on its stdout so long after exec, and so long after the
///       last REQUEST; each is sent once that before is answered. EXITS is how often the guests of
///       this host have left for KVM, 0 where debugfs does not tell
///
/// The program is killed then. It gets PATH and nothing else of the environment, no stdin, and its
/// stderr goes nowhere. Exit status 1: not within 10 s, a minute for a text, or not with PREFIX.
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
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
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

/// Sends the requests of `pairs`, each followed by how its answer starts.
/// @return when the last was sent: its answer may come later than what it causes.
static int64_t AskAll(int fd, char** pairs) {
  char answer[4096];
  for (;; pairs += 2) {
    const int64_t asked = Now();
    if (write(fd, pairs[0], strlen(pairs[0])) < 0) Finish(1);
    if (strcmp(pairs[1], "--") == 0) return asked;
    const ssize_t length = read(fd, answer, sizeof answer);
    const size_t wanted = strlen(pairs[1]);
    if (length < (ssize_t)wanted || memcmp(answer, pairs[1], wanted) != 0) Finish(1);
  }
}

static _Noreturn void MeasureText(char** argv) {
  int out[2];
  char** program = argv + 2;
  while (strcmp(*program++, "--") != 0) continue;
  if (pipe2(out, O_CLOEXEC) < 0) exit(2);
  alarm(60);
  const int64_t start = Now();
  Start(program, out[1]);
  close(out[1]);
  const int64_t asked = AskAll(Connect(argv[1], start), argv + 2);
  AwaitText(out[0], argv[0]);
  const int64_t end = Now();
  printf("%jd %jd %jd\n", (intmax_t)(end - start), (intmax_t)(end - asked),
         NumberIn("/sys/kernel/debug/kvm/exits"));
  Finish(0);
}

int main(int argc, char** argv) {
  signal(SIGALRM, GiveUp);
  alarm(10);
  if (argc > 5 && strcmp(argv[1], "text") == 0) MeasureText(argv + 2);
  if (argc > 3 && strcmp(argv[1], "byte") == 0) {
    int out[2];
    char byte;
    if (pipe2(out, O_CLOEXEC) < 0) return 2;
    const int64_t start = Now();
    Start(argv + 3, out[1]);
    close(out[1]);
    if (read(out[0], &byte, 1) != 1) Finish(1);
    printf("%jd\n", (intmax_t)(Now() - start));
    Finish(0);
  }
  if (argc < 7) return 2;
  const int64_t start = Now();
  Start(argv + 6, -1);
  const int fd = Connect(argv[2], start);
  const int64_t connected = Now() - start;
  char answer[4096];
  if (write(fd, argv[3], strlen(argv[3])) < 0) Finish(1);
  const ssize_t length = read(fd, answer, sizeof answer);
  const int64_t answered = Now() - start;
  const size_t wanted = strlen(argv[4]);
  if (length < (ssize_t)wanted || memcmp(answer, argv[4], wanted) != 0) Finish(1);
  printf("%jd %jd\n", (intmax_t)connected, (intmax_t)answered);
  Finish(0);
}
