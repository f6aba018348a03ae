#include "../../native/base/thread.h"

#include <string>

#include "check.h"
#include "threads.h"

namespace {

using vmm::Thread;

/// Many, for one thread alone may have run by the time that its name is looked for.
void IsNamedAtOnce() {
  for (int i = 0; i < 200; i++) {
    const std::string name = "named" + std::to_string(i);
    Thread thread(name, [] { usleep(10'000); });
    OfThread(name, "voluntary_ctxt_switches");
  }
}

}  // namespace

int main() { Test("a thread has its name as soon as it is there", IsNamedAtOnce); }
