#pragma once
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <vector>

#include "../base/thread.h"

namespace vmm {

/// Two threads, `work0` and `work1`, for system calls whose length a guest or a config sets. Node's
/// own four would be used up by them. They start with the first job and sleep between jobs.
class Workers {
 public:
  ~Workers();
  /// Any thread. Jobs start in order.
  void Post(std::function<void()> job);

 private:
  static constexpr size_t kThreads = 2;
  void Run();

  std::mutex mutex_;
  std::condition_variable posted_;
  std::deque<std::function<void()>> jobs_;
  bool stop_ = false;
  std::vector<Thread> threads_;
};

}  // namespace vmm
