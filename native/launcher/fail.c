#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "launcher.h"

static bool log_line = true;

static const char* program = "Cloud Hypervisor";

void FailAs(const char* name) { program = name; }

void FailWithoutLogLine(void) { log_line = false; }

static double SecondsSinceStart(void) {
  struct timespec cpu;  // the launcher never sleeps before it fails, so this is near enough
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
  return (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9;
}

_Noreturn void Fail(int errno_value, const char* const links[]) {
  size_t count = 0;
  while (links[count]) ++count;
  const bool many = count + (errno_value != 0) > 1;
  if (log_line)
    fprintf(stderr, "cloud-hypervisor: %10.6fs: <main> ERROR:%s:%d -- Fatal error: %s\r\n",
            SecondsSinceStart(), __FILE__, __LINE__, links[count - 1]);
  if (!many) {
    fprintf(stderr, "Error: %s exited with the following error:\n  %s\n", program, links[0]);
    exit(1);
  }
  fprintf(stderr, "Error: %s exited with the following chain of errors:\n", program);
  for (size_t i = 0; i < count; ++i) fprintf(stderr, "  %zu: %s\n", i, links[i]);
  if (errno_value)
    fprintf(stderr, "  %zu: %s (os error %d)\n", count, strerror(errno_value), errno_value);
  exit(1);
}
