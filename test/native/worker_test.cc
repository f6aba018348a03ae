#include "../../native/sys/worker.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <latch>
#include <memory>
#include <string>

#include "check.h"

namespace {

using vmm::Workers;

void DoesAllBeforeItEnds() {
  std::atomic<int> done{0};
  {
    Workers workers("work", 2);
    for (int i = 0; i < 100; ++i)
      workers.Post([&] {
        usleep(100);
        ++done;
      });
  }
  CHECK(done.load() == 100);
}

void TwoAtATime() {
  std::atomic<int> at_once{0}, most{0};
  std::latch both(2);
  Workers workers("work", 2);
  for (int i = 0; i < 2; ++i) workers.Post([&] { both.arrive_and_wait(); });  // else it hangs
  both.wait();
  std::latch all(20);
  for (int i = 0; i < 20; ++i)
    workers.Post([&] {
      const int now = ++at_once;
      int before = most.load();
      while (before < now && !most.compare_exchange_weak(before, now))
        ;
      usleep(200);
      --at_once;
      all.count_down();
    });
  all.wait();
  CHECK(most.load() <= 2);
}

void OneAfterAnother() {
  std::string order;
  {
    Workers workers("one", 1);
    for (const char job : {'a', 'b', 'c', 'd'})
      workers.Post([&order, job] {
        usleep('e' - job);
        order += job;
      });
  }
  CHECK(order == "abcd");
}

void DropsWhatJobsHold() {
  const auto held = std::make_shared<int>(0);
  {
    Workers workers("work", 2);
    workers.Post([held] {});
  }
  CHECK(held.use_count() == 1);
}

/// A thread of ours has its name, and leaves every signal but the kick to the JS thread.
void NamesAndMasks() {
  std::string name(16, '\0');
  sigset_t blocked;
  {
    const vmm::Thread thread("a name that is too long", [&] {
      pthread_getname_np(pthread_self(), name.data(), name.size());
      pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
    });
  }
  CHECK(name.c_str() == std::string("a name that is "));
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGCHLD, SIGUSR1})
    CHECK(sigismember(&blocked, signal) == 1);
  CHECK(sigismember(&blocked, vmm::KickSignal()) == 0);
  pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
  CHECK(sigismember(&blocked, SIGTERM) == 0);  // and the maker keeps its own
}

/// A kick ends a blocking call; repeated, for the first may come before the call.
void KickInterrupts() {
  std::array<int, 2> fds{};
  CHECK(pipe(fds.data()) == 0);
  std::atomic<bool> ended{false};
  vmm::Thread thread("reader", [&] {
    char byte = 0;
    CHECK(read(fds[0], &byte, 1) == -1 && errno == EINTR);
    ended.store(true);
  });
  while (!ended.load()) {
    thread.Kick();
    usleep(1000);
  }
  for (const int fd : fds) close(fd);
}

}  // namespace

int main() {
  alarm(60);  // what ought to end and does not
  Test("every job is done before the workers end", DoesAllBeforeItEnds);
  Test("two jobs run at a time, and no more", TwoAtATime);
  Test("one thread does them in order", OneAfterAnother);
  Test("what a job holds goes with it", DropsWhatJobsHold);
  Test("a thread has its name and leaves signals to others", NamesAndMasks);
  Test("a kick interrupts a blocking call", KickInterrupts);
}
