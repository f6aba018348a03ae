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

#include "build_config.h"  // generated: VERSION_LINE, HELP, NODE_CANDIDATES
#include "launcher.h"

/// For main.ts. The socket's fd and, if we made it, its path, as in `5:/run/api.sock`.
#define API_VARIABLE "CLOUD_HYPERVISOR_API"
/// The name that exec is about to replace by node's.
#define COMM_VARIABLE "CLOUD_HYPERVISOR_COMM"

extern char** environ;

/// A file opened later must not become the process's stdout.
static void OpenStandardFds(bool was_closed[3]) {
  for (int fd = 0; fd < 3; ++fd) {
    was_closed[fd] = fcntl(fd, F_GETFD) < 0;
    if (was_closed[fd] && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd) _exit(1);
  }
}

static bool StartsWith(const char* text, const char* prefix) {
  return strncmp(text, prefix, strlen(prefix)) == 0;
}

/// What would change how node starts. Anything a user sets for other programs is not meant for us.
static bool IsUnwanted(const char* variable) {
  return StartsWith(variable, "NODE_") || StartsWith(variable, "LD_") ||
         StartsWith(variable, "OPENSSL_CONF=") || StartsWith(variable, API_VARIABLE "=") ||
         StartsWith(variable, COMM_VARIABLE "=") ||
         // With file capabilities, a code cache in the user's home would run with them.
         (getauxval(AT_SECURE) &&
          (StartsWith(variable, "HOME=") || StartsWith(variable, "XDG_CACHE_HOME=")));
}

static void CleanEnvironment(void) {
  char** kept = environ;
  for (char** variable = environ; *variable; ++variable)
    if (!IsUnwanted(*variable)) *kept++ = *variable;
  *kept = NULL;
  setenv("MALLOC_ARENA_MAX", "1", 1);
}

/// What argv says that cannot wait for node.
struct Arguments {
  bool help;
  bool version;
  bool log_file;
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

/// The loader beside this executable. Static storage: exec is next.
static const char* LoaderPath(void) {
  static char path[4096];
  static const char kName[] = "loader.cjs";
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - sizeof kName);
  if (length < 0) {
    const char* const links[] = {"Cannot find out where cloud-hypervisor lies: is /proc mounted?",
                                 NULL};
    Fail(errno, links);
  }
  path[length] = '\0';
  strcpy(strrchr(path, '/') + 1, kName);
  if (access(path, R_OK) < 0) {
    char text[sizeof path + 200];
    snprintf(text, sizeof text,
             "Cannot read %s: copy the whole dist directory, or build it with `npm run build`",
             path);
    const char* const links[] = {text, NULL};
    Fail(errno, links);
  }
  return path;
}

static void SetVariables(int api_fd, const char* api_path) {
  char name[16] = "";
  prctl(PR_GET_NAME, name);
  setenv(COMM_VARIABLE, name, 1);
  char api[200];
  snprintf(api, sizeof api, "%d:%s", api_fd, api_path ? api_path : "");
  if (api_fd >= 0) setenv(API_VARIABLE, api, 1);
}

/// Returns only if no node could be started.
static void ExecNode(char** argv, int argc, const char* loader) {
  char** words = calloc((size_t)argc + 3, sizeof *words);
  if (!words) return;
  int count = 0;
  words[count++] = argv[0];
  words[count++] = "--v8-pool-size=1";  // else as many threads as the host has CPUs
  words[count++] = (char*)loader;
  for (int i = 1; i < argc; ++i) words[count++] = argv[i];

  // Service managers give no PATH, and with file capabilities it is not to be trusted.
  for (const char* const* node = NODE_CANDIDATES; *node; ++node) execv(*node, words);
  if (!getauxval(AT_SECURE)) execvp("node", words);
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

  const char* loader = LoaderPath();
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
  const char* const links[] = {
      "Cannot start node: install Node.js 20 or later at /usr/bin or /usr/local/bin, or in PATH",
      NULL};
  Fail(errno, links);
}
