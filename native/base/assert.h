#pragma once
#include <cstdio>
#include <cstdlib>

/// Ends the process if an invariant of ours is broken, in release builds too. Nothing that a guest,
/// a file, a backend or a request can reach may stand here.
#define VMM_ASSERT(condition)                                                                      \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      (void)std::fprintf(stderr, "%s:%d: invariant broken: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                                \
    }                                                                                              \
  } while (false)
