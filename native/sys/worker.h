#pragma once
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "../base/thread.h"

namespace vmm {

/// A few threads, as `work0` and `work1`, for system calls that the JS thread does not wait for.
/// Node's own four would be used up by them. They start with the first job and sleep between jobs.
class Workers {
 public:
  Workers(std::string name, size_t count) : name_(std::move(name)), count_(count) {}
  ~Workers();
  /// Any thread. Jobs start in order.
  void Post(std::function<void()> job);

 private:
  void Run();

  const std::string name_;
  const size_t count_;
  std::mutex mutex_;
  std::condition_variable posted_;
  std::deque<std::function<void()>> jobs_;
  bool stop_ = false;
  std::vector<Thread> threads_;
};

}  // namespace vmm
