/// Looks for a file all the time, and says so when it is there, or is not there any more:
///
///     plug-watch there PATH [SWITCH]    then turns a CPU on by its SWITCH, if that is named, first
///     plug-watch gone PATH
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LOOK_US = 500 };

static int turn_on(const char* path) {
  const int fd = open(path, O_WRONLY);
  if (fd < 0) return 0;
  const int done = write(fd, "1", 1) == 1;
  close(fd);
  return done;
}

int main(int count, char** words) {
  if (count < 3) return 2;
  const int wanted = strcmp(words[1], "there") == 0;
  while ((access(words[2], F_OK) == 0) != wanted) usleep(LOOK_US);
  while (count > 3 && !turn_on(words[3])) usleep(LOOK_US);
  printf("watch: %s\n", words[1]);
  return 0;
}
