#include "../../native/base/event_fd.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>

#include "check.h"

namespace {

using vmm::EventFd;

/// What a hostile process can do to an eventfd that it was given.
void MakeBlocking(const EventFd& event) {
  CHECK(fcntl(event.get(), F_SETFL, fcntl(event.get(), F_GETFL) & ~O_NONBLOCK) == 0);
}

/// Each of these calls would never come back if it trusted the flags. SIGALRM ends the test then.
void WaitsForNobody() {
  const EventFd event;
  MakeBlocking(event);
  alarm(10);
  CHECK(!event.TakeUntrusted());
  const uint64_t full = UINT64_MAX - 1;
  CHECK(write(event.get(), &full, sizeof(full)) == sizeof(full));
  event.SignalUntrusted();
  CHECK(event.TakeUntrusted() && !event.TakeUntrusted());
  event.SignalUntrusted();
  CHECK(event.Pending() && event.TakeUntrusted());
  alarm(0);
}

}  // namespace

int main() { Test("who shares an eventfd cannot make us wait", WaitsForNobody); }
