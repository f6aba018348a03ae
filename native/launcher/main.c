/// `cloud-hypervisor`: cleans up what it was started with, makes the API connectable and becomes
/// node, in place, so that the process that a client launched is the VMM.
///
/// Beside it lie the bundle and its loader; it finds them by /proc/self/exe. Static, so that no
/// dynamic linker stands between exec and a connectable socket.
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "build_config.h"  // generated: VERSION_LINE, HELP
#include "launcher.h"
#include "node.h"

/// For main.ts. The socket's fd and, if we made it, its path, as in `5:/run/api.sock`.
#define API_VARIABLE OUR_VARIABLES "API"
/// The name that exec is about to replace by node's.
#define COMM_VARIABLE OUR_VARIABLES "COMM"

/// What argv says that cannot wait for node.
struct Arguments {
  bool help;
  bool version;
  bool log_file;
  const char* event_monitor;
  int api_sockets;
  const char* api_socket;  // null without a value: node then says what is wrong
};

/// A cluster of short options, as in -vV. They take no values.
static void ParseShort(const char* letters, struct Arguments* arguments) {
  for (; *letters && !arguments->help && !arguments->version; ++letters) {
    arguments->help = *letters == 'h';
    arguments->version = *letters == 'V';
  }
}

/// Values never start with a dash, so whatever does is an option.
static struct Arguments ParseArguments(char** argv) {
  struct Arguments arguments = {0};
  for (char** word = argv + 1; *word && !arguments.help && !arguments.version; ++word) {
    const char* text = *word;
    arguments.help = strcmp(text, "--help") == 0;
    arguments.version = strcmp(text, "--version") == 0;
    if (text[0] == '-' && text[1] != '-') ParseShort(text + 1, &arguments);
    if (StartsWith(text, "--log-file")) arguments.log_file = true;
    if (strcmp(text, "--api-socket") == 0) {
      ++arguments.api_sockets;
      if (word[1] && word[1][0] != '-') arguments.api_socket = *++word;
    } else if (StartsWith(text, "--api-socket=")) {
      ++arguments.api_sockets;
      arguments.api_socket = text + strlen("--api-socket=");
    } else if (strcmp(text, "--event-monitor") == 0) {
      arguments.event_monitor = word[1];
    } else if (StartsWith(text, "--event-monitor=")) {
      arguments.event_monitor = text + strlen("--event-monitor=");
    }
  }
  return arguments;
}

/// exec would lose what `setcap cap_net_admin+ep` gave this file: node is another file. Root keeps
/// everything anyway. A kernel that refuses leaves the VMM without, and it says so when it matters.
static void KeepCapabilities(void) {
  if (geteuid() == 0) return;
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
  if (syscall(SYS_capget, &header, sets) < 0) return;
  for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; ++i) sets[i].inheritable |= sets[i].permitted;
  if (syscall(SYS_capset, &header, sets) < 0) return;
  for (unsigned capability = 0; capability < 64; ++capability)
    if (sets[capability / 32].permitted >> capability % 32 & 1)
      prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0);
}

/// Node is about to open descriptors of its own, and one of them may get this number.
static void CheckEventMonitor(const char* value, const bool standard_fd_was_closed[3]) {
  int fd;
  if (!value || !ParseFd(value, &fd)) return;
  const bool was_closed = fd < 3 && standard_fd_was_closed[fd];
  const int flags = was_closed ? -1 : fcntl(fd, F_GETFL);
  if (flags >= 0 && (flags & O_ACCMODE) != O_RDONLY) return;
  const char* const links[] = {"Error doing event monitor I/O", NULL};
  Fail(EBADF, links);
}

static void SetVariables(int api_fd, const char* api_path) {
  char name[16] = "";
  prctl(PR_GET_NAME, name);
  setenv(COMM_VARIABLE, name, 1);
  char api[200];
  snprintf(api, sizeof api, "%d:%s", api_fd, api_path ? api_path : "");
  if (api_fd >= 0) setenv(API_VARIABLE, api, 1);
}

int main(int argc, char** argv) {
  bool was_closed[3];
  OpenStandardFds(was_closed);
  if (argc < 2) {
    fputs(HELP, stderr);
    return 2;
  }
  const struct Arguments arguments = ParseArguments(argv);
  if (arguments.version || arguments.help) {
    fputs(arguments.version ? VERSION_LINE : HELP, stdout);
    return fflush(stdout) == 0 ? 0 : 1;
  }
  if (arguments.log_file) FailWithoutLogLine();

  CheckEventMonitor(arguments.event_monitor, was_closed);
  const char* loader = ScriptPath("loader.cjs");
  CleanEnvironment();
  umask(077);
  int api_fd = -1;
  const char* api_path = NULL;
  if (arguments.api_sockets == 1 && arguments.api_socket)
    api_fd = OpenApiSocket(arguments.api_socket, was_closed, &api_path);
  SetVariables(api_fd, api_path);
  KeepCapabilities();
  ExecNode(argv, argc, loader);

  if (api_path) unlink(api_path);
  FailWithoutNode();
}
