/// Starts a program and says when it does something, in nanoseconds after exec.
///
///   probe reply SOCKET REQUEST PREFIX -- PROGRAM ARG...   "CONNECTABLE REPLY": the socket accepts,
///       and the first bytes it sends after REQUEST (may be empty) start with PREFIX
///   probe byte -- PROGRAM ARG...                          "BYTE": something stands on its stdout
///
/// The program is killed then. It gets PATH and nothing else of the environment, no stdin, and its
/// stderr goes nowhere. Exit status 1: not within 10 s, or not with PREFIX.
#include <fcntl.h>
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

int main(int argc, char** argv) {
  signal(SIGALRM, GiveUp);
  alarm(10);
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
