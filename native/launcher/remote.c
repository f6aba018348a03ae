/// `ch-remote`: connects to the API socket and becomes node, which then needs no network of its
/// own. Static, as the launcher of the VMM, and as sparing.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "build_config.h"  // generated: VERSION_LINE, HELP
#include "launcher.h"
#include "node.h"

/// For remote.ts: the connected socket, or in words why there is none.
#define VARIABLE OUR_VARIABLES "REMOTE"

struct Arguments {
  bool help;
  bool version;
  bool has_command;
  const char* socket;  // null if there is none to connect to: remote.ts says what is wrong
};

static bool IsHelp(const char* word) {
  return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

/// What stands before the subcommand, and whether help is asked for anywhere.
static struct Arguments ParseArguments(char** argv) {
  struct Arguments arguments = {0};
  char** word = argv + 1;
  for (; *word && (*word)[0] == '-'; ++word) {
    if (strcmp(*word, "--version") == 0 || strcmp(*word, "-V") == 0) arguments.version = true;
    if (IsHelp(*word)) arguments.help = true;
    if (StartsWith(*word, "--api-socket=")) arguments.socket = *word + strlen("--api-socket=");
    if (strcmp(*word, "--api-socket") == 0 && word[1]) arguments.socket = *++word;
  }
  arguments.has_command = *word != NULL;
  for (; *word; ++word)
    if (IsHelp(*word)) arguments.help = true;
  return arguments;
}

/// Returns the socket, or a negative errno.
static int Connect(const char* path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) return -ENAMETOOLONG;
  strcpy(address.sun_path, path);
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, (const struct sockaddr*)&address, sizeof address) < 0) return -errno;
  return fd;
}

static void SetVariable(int fd) {
  char value[200];
  if (fd >= 0)
    snprintf(value, sizeof value, "%d", fd);
  else
    snprintf(value, sizeof value, "%s (os error %d)", strerror(-fd), -fd);
  setenv(VARIABLE, value, 1);
}

int main(int argc, char** argv) {
  bool was_closed[3];
  OpenStandardFds(was_closed);
  FailAs("ch-remote");
  FailWithoutLogLine();
  const struct Arguments arguments = ParseArguments(argv);
  if (arguments.version || arguments.help) {
    fputs(arguments.version ? VERSION_LINE : HELP, stdout);
    return fflush(stdout) == 0 ? 0 : 1;
  }
  if (!arguments.has_command) {
    fputs(HELP, stderr);
    return 2;
  }
  const char* script = ScriptPath("remote.cjs");
  CleanEnvironment();
  if (arguments.socket) SetVariable(Connect(arguments.socket));
  ExecNode(argv, argc, script);
  FailWithoutNode();
}
