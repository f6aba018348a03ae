#include "node.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "build_config.h"  // generated: NODE_CANDIDATES
#include "launcher.h"

extern char** environ;

void OpenStandardFds(bool was_closed[3]) {
  for (int fd = 0; fd < 3; ++fd) {
    was_closed[fd] = fcntl(fd, F_GETFD) < 0;
    if (was_closed[fd] && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd) _exit(1);
  }
}

bool StartsWith(const char* text, const char* prefix) {
  return strncmp(text, prefix, strlen(prefix)) == 0;
}

/// What would change how node starts. Anything a user sets for other programs is not meant for us.
static bool IsUnwanted(const char* variable) {
  return StartsWith(variable, "NODE_") || StartsWith(variable, "LD_") ||
         StartsWith(variable, "OPENSSL_CONF=") || StartsWith(variable, OUR_VARIABLES) ||
         // With file capabilities, a code cache in the user's home would run with them.
         (getauxval(AT_SECURE) &&
          (StartsWith(variable, "HOME=") || StartsWith(variable, "XDG_CACHE_HOME=")));
}

void CleanEnvironment(void) {
  char** kept = environ;
  for (char** variable = environ; *variable; ++variable)
    if (!IsUnwanted(*variable)) *kept++ = *variable;
  *kept = NULL;
  setenv("MALLOC_ARENA_MAX", "1", 1);
}

bool ParseFd(const char* value, int* fd) {
  if (!StartsWith(value, "fd=") || value[3] == '\0') return false;
  char* end;
  const long number = strtol(value + 3, &end, 10);
  if (*end != '\0' || number < 0 || number > 1 << 20) return false;
  *fd = (int)number;
  return true;
}

const char* ScriptPath(const char* name) {
  static char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - strlen(name) - 1);
  if (length < 0) {
    const char* const links[] = {"Cannot find out where this program lies: is /proc mounted?",
                                 NULL};
    Fail(errno, links);
  }
  path[length] = '\0';
  strcpy(strrchr(path, '/') + 1, name);
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

void ExecNode(char** argv, int argc, const char* script) {
  char** words = calloc((size_t)argc + 3, sizeof *words);
  if (!words) return;
  int count = 0;
  words[count++] = argv[0];
  words[count++] = "--v8-pool-size=1";  // else as many threads as the host has CPUs
  words[count++] = (char*)script;
  for (int i = 1; i < argc; ++i) words[count++] = argv[i];

  // Service managers give no PATH, and with file capabilities it is not to be trusted.
  for (const char* const* node = NODE_CANDIDATES; *node; ++node) execv(*node, words);
  if (!getauxval(AT_SECURE)) execvp("node", words);
}

_Noreturn void FailWithoutNode(void) {
  const char* const links[] = {
      "Cannot start node: install Node.js 20 or later at /usr/bin or /usr/local/bin, or in PATH",
      NULL};
  Fail(errno, links);
}
