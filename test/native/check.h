#pragma once
#include <cstddef>
#include <cstdio>
#include <cstdlib>

/// Ends the test executable, naming the place, unless `what` holds.
#define CHECK(what)                                                     \
  do {                                                                  \
    if (!(what)) {                                                      \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, (#what)); \
      std::abort();                                                     \
    }                                                                   \
  } while (false)

/// Runs one test; scripts/native-tests.ts counts the lines that end in `: ok`.
template <class Body>
void Test(const char* name, Body body) {
  body();
  std::printf("%s: ok\n", name);
  std::fflush(stdout);
}

/// Every test is built with a sanitizer, and both have this.
extern "C" size_t __sanitizer_get_current_allocated_bytes();
