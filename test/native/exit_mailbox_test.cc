#include "../../native/kvm/exit_mailbox.h"

#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <latch>
#include <mutex>
#include <thread>
#include <vector>

#include "check.h"

namespace {

using vmm::Access;
using vmm::ExitMailbox;

constexpr uint32_t kAllOnes = ~uint32_t{0};

/// The JS thread and its event loop: runs what is posted, in turn, until told to stop.
class JsThread {
 public:
  ~JsThread() {
    Post([this] { stop_ = true; });
    thread_.join();
  }
  void Post(std::function<void()> task) {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    posted_.notify_one();
  }

 private:
  void Run() {
    while (!stop_) {
      std::unique_lock lock(mutex_);
      posted_.wait(lock, [this] { return !tasks_.empty(); });
      const auto task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }
  bool stop_ = false;  // its own thread only
  std::mutex mutex_;
  std::condition_variable posted_;
  std::deque<std::function<void()>> tasks_;
  std::thread thread_{[this] { Run(); }};
};

void AskMany(ExitMailbox* box, uint32_t vcpu, uint32_t asks, const std::function<void()>& wake) {
  for (uint32_t i = 0; i < asks; ++i) {
    Access access{vcpu, i, 0, 4, false};
    box->Ask(vcpu, &access, wake);
    CHECK(access.value == i * 2 + 1);
    if (i % 500 == 0) usleep(200);  // so that both sides go to sleep now and then
  }
}

/// Four vCPUs ask `asks` times each, and all but the first are plugged in later.
void Answers(ExitMailbox::SpinTimes spin, uint32_t asks, useconds_t answer_us) {
  constexpr uint32_t kVcpus = 4;
  ExitMailbox box(1, spin);
  uint64_t answered = 0, cuts = 0;  // JS thread only
  {
    std::latch raised(1);
    std::function<void()> serve;
    JsThread js;
    serve = [&] {
      const bool cut = box.Serve([&](size_t, Access* access) {
        if (answer_us > 0) usleep(answer_us);
        access->value = access->offset * 2 + 1;
        ++answered;
        return true;
      });
      cuts += cut ? 1 : 0;
      if (cut) js.Post(serve);
    };
    js.Post([&] { box.RaiseVcpus(kVcpus), raised.count_down(); });
    std::vector<std::jthread> vcpus;
    for (uint32_t id = 0; id < kVcpus; ++id) {
      if (id == 1) raised.wait();
      vcpus.emplace_back(AskMany, &box, id, asks, [&] { js.Post(serve); });
    }
  }
  CHECK(answered == uint64_t{kVcpus} * asks);
  CHECK(answer_us == 0 || cuts > 0);
}

/// Each vCPU has its answer later, in a turn of its own; the others are served meanwhile.
void AnswersLate() {
  constexpr uint32_t kVcpus = 4, kAsks = 5'000;
  ExitMailbox box(kVcpus, {});
  uint64_t late = 0;  // JS thread only
  {
    std::function<void()> serve;
    JsThread js;
    serve = [&] {
      const bool cut = box.Serve([&](size_t vcpu, Access* access) {
        const uint32_t value = access->offset * 2 + 1;
        access->value = value;
        if (access->offset % 3 == 0) return true;
        js.Post([&, vcpu, value] { box.AnswerLate(vcpu, value), ++late; });
        access->value = 0;
        return false;
      });
      if (cut) js.Post(serve);
    };
    std::vector<std::jthread> vcpus;
    for (uint32_t id = 0; id < kVcpus; ++id)
      vcpus.emplace_back(AskMany, &box, id, kAsks, [&] { js.Post(serve); });
  }
  CHECK(late == kVcpus * (kAsks - (kAsks + 2) / 3));
}

/// An answer that comes when nobody waits any more, or twice, is none.
void AnswersTooLate() {
  ExitMailbox box(1, {});
  box.AnswerLate(0, 7);
  JsThread js;
  const auto leave = [&](size_t, Access*) { return false; };
  const auto end = [&] { box.Close(), box.AnswerLate(0, 7); };
  const auto serve = [&] { static_cast<void>(box.Serve(leave)), js.Post(end); };
  Access access{0, 0, 0, 1, false};
  box.Ask(0, &access, [&] { js.Post(serve); });
  CHECK(access.value == kAllOnes);
}

/// Nobody serves, so all sleep until the mailbox is closed; who asks later does not wait at all.
void Close() {
  ExitMailbox box(3, {});
  std::vector<std::jthread> vcpus;
  for (uint32_t id = 0; id < 3; ++id)
    vcpus.emplace_back([&box, id] {
      for (int i = 0; i < 3; ++i) {
        Access access{id, 0, 0, 4, false};
        box.Ask(id, &access, [] {});
        CHECK(access.value == kAllOnes);
      }
    });
  usleep(1000);
  box.Close();
}

/// A guest may power off by the very access that is being answered.
void CloseWhileAnswering() {
  ExitMailbox box(1, {});
  JsThread js;
  const auto power_off = [&](size_t, Access* asked) { return box.Close(), asked->value = 7; };
  const auto serve = [&] { static_cast<void>(box.Serve(power_off)); };
  Access access{0, 0, 0, 1, true};
  box.Ask(0, &access, [&] { js.Post(serve); });
  CHECK(access.value == kAllOnes);
}

}  // namespace

int main() {
  Test("every ask gets its own answer", [] { Answers({}, 10'000, 0); });
  Test("every ask gets its own answer where nobody spins",
       [] { Answers({.vcpu_ns = 0, .linger_ns = 0}, 10'000, 0); });
  Test("a storm of slow asks is cut, and goes on", [] { Answers({}, 200, 100); });
  Test("an answer may come later", AnswersLate);
  Test("an answer that comes too late is none", [] {
    for (int i = 0; i < 100; ++i) AnswersTooLate();
  });
  Test("closing releases all, with all ones", [] {
    for (int i = 0; i < 100; ++i) Close();
  });
  Test("closing while answering releases the one that asked", [] {
    for (int i = 0; i < 100; ++i) CloseWhileAnswering();
  });
}
