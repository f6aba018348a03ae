/// What both executables do around starting node.
#ifndef NATIVE_LAUNCHER_NODE_H_
#define NATIVE_LAUNCHER_NODE_H_

#include <stdbool.h>

/// How the names of our environment variables begin.
#define OUR_VARIABLES "CLOUD_HYPERVISOR_"

bool StartsWith(const char* text, const char* prefix);

/// `fd=N`, as open files are named on the command line.
bool ParseFd(const char* value, int* fd);

/// A file opened later must not become the process's stdout.
void OpenStandardFds(bool was_closed[3]);

/// Drops what would change how node starts, and what is ours to set.
void CleanEnvironment(void);

/// The script of that name beside this executable, in static storage; exits if it is not there.
const char* ScriptPath(const char* name);

/// Becomes node, running `script` with our arguments. Returns only if no node could be started.
void ExecNode(char** argv, int argc, const char* script);

/// Says so and exits; errno tells why.
_Noreturn void FailWithoutNode(void);

#endif  // NATIVE_LAUNCHER_NODE_H_
