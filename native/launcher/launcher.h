/// Failures before there is a JavaScript engine, and what must happen before then.
#ifndef NATIVE_LAUNCHER_LAUNCHER_H_
#define NATIVE_LAUNCHER_LAUNCHER_H_

#include <stdbool.h>

/// Prints what the VMM prints when it cannot start, outermost first, and exits with 1. The list
/// ends with a null. `errno_value` adds its text as the last link unless 0.
_Noreturn void Fail(int errno_value, const char* const links[]);

/// How a failure calls the program, instead of "Cloud Hypervisor".
void FailAs(const char* program);

/// With --log-file the first line of a failure belongs there, not to stderr.
void FailWithoutLogLine(void);

/// The API socket that `value`, as given to --api-socket, names: PATH, path=PATH or fd=N.
/// Returns the fd of a listening socket; exits if there can be none. On return `*path` is what
/// was bound, null for fd=N.
int OpenApiSocket(const char* value, bool standard_fd_was_closed[3], const char** path);

#endif  // NATIVE_LAUNCHER_LAUNCHER_H_
