/// A client that passes descriptors, which node cannot.
///
///   send-fds SOCKET FILE {TEXT COUNT}...   sends each TEXT as one message, with COUNT descriptors
///       of FILE, then waits until its stdin ends and prints what came back.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int Send(int socket, char* text, int file, size_t count) {
  char control[CMSG_SPACE(253 * sizeof(int))] = {0};
  struct iovec bytes = {.iov_base = text, .iov_len = strlen(text)};
  struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
  if (count > 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(count * sizeof(int));
    for (size_t i = 0; i < count; ++i)
      memcpy(CMSG_DATA(part) + i * sizeof(int), &file, sizeof file);
  }
  return sendmsg(socket, &message, 0) < 0;
}

int main(int argc, char** argv) {
  if (argc < 5) return 2;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
  const int file = open(argv[2], O_RDONLY);
  const int connection = socket(AF_UNIX, SOCK_STREAM, 0);
  if (connect(connection, (struct sockaddr*)&address, sizeof address) < 0) return 1;
  for (int i = 3; i + 1 < argc; i += 2)
    if (Send(connection, argv[i], file, (size_t)atoi(argv[i + 1]))) return 1;

  char bytes[4096];
  while (read(0, bytes, sizeof bytes) > 0) continue;
  shutdown(connection, SHUT_WR);
  for (ssize_t n; (n = read(connection, bytes, sizeof bytes)) > 0;)
    fwrite(bytes, 1, (size_t)n, stdout);
  return 0;
}
