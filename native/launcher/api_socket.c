#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "launcher.h"
#include "node.h"

static const char kStart[] = "Failed to start the VMM thread";
static const char kCreate[] = "Error creation API server's socket";

static _Noreturn void FailCreate(int errno_value) {
  const char* const links[] = {kStart, kCreate, NULL};
  Fail(errno_value, links);
}

static _Noreturn void FailText(const char* format, const char* path) {
  char text[8192];
  snprintf(text, sizeof text, format, path);
  const char* const links[] = {kStart, text, NULL};
  Fail(0, links);
}

static _Noreturn void FailInUse(const char* path) {
  FailText("API socket \"%s\" is already in use by another running instance", path);
}

/// PATH.lock says that the socket is taken, for as long as the process lives: the lock belongs to
/// the open file, which exec keeps. The file itself stays.
static void Lock(const char* path) {
  char lock_path[4096];
  if ((size_t)snprintf(lock_path, sizeof lock_path, "%s.lock", path) >= sizeof lock_path)
    FailCreate(ENAMETOOLONG);
  const int fd = open(lock_path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
  if (fd < 0) FailCreate(errno);
  struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  if (fcntl(fd, F_OFD_SETLK, &whole) == 0) return;
  if (errno == EAGAIN || errno == EACCES) FailInUse(path);
  FailCreate(errno);
}

/// Makes room at `address`: a socket that nobody listens on goes, and so does an empty file, for
/// that is how names are reserved. What someone still uses or has put there stays.
static void RemoveStale(const struct sockaddr_un* address) {
  const char* path = address->sun_path;
  struct stat status;
  if (lstat(path, &status) < 0) {
    if (errno == ENOENT) return;
    FailCreate(errno);
  }
  const bool is_empty_file = S_ISREG(status.st_mode) && status.st_size == 0;
  if (!S_ISSOCK(status.st_mode) && !is_empty_file)
    FailText("API socket \"%s\" is there already, and no socket; remove it or name another", path);
  if (S_ISSOCK(status.st_mode)) {
    const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (probe < 0) FailCreate(errno);
    const bool refused = connect(probe, (const struct sockaddr*)address, sizeof *address) < 0 &&
                         errno != EAGAIN;  // its queue is full, so it is alive
    close(probe);
    if (!refused) FailInUse(path);
  }
  if (unlink(path) < 0) FailCreate(errno);
}

static int Bind(const char* path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const size_t length = strlen(path);
  if (length == 0) FailText("API socket \"%s\" names no path", path);
  if (length >= sizeof address.sun_path)
    FailText("API socket \"%s\" is longer than a socket path can be, 107 bytes", path);
  memcpy(address.sun_path, path, length);

  Lock(path);
  RemoveStale(&address);
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (fd < 0) FailCreate(errno);
  if (bind(fd, (const struct sockaddr*)&address, sizeof address) < 0) FailCreate(errno);
  if (listen(fd, SOMAXCONN) < 0) FailCreate(errno);
  return fd;
}

int OpenApiSocket(const char* value, bool standard_fd_was_closed[3], const char** path) {
  int fd;
  *path = NULL;
  if (ParseFd(value, &fd)) {
    int listening = 0;
    socklen_t length = sizeof listening;
    if (fd < 3 && standard_fd_was_closed[fd]) FailCreate(EBADF);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) < 0) FailCreate(errno);
    if (!listening) FailText("API socket \"%s\" is a socket that does not listen", value);
    return fd;
  }
  *path = strncmp(value, "path=", 5) == 0 ? value + 5 : value;
  return Bind(*path);
}
