#include "worker.h"

#include <string>
#include <utility>

namespace vmm {

Workers::~Workers() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  posted_.notify_all();
  for (Thread& thread : threads_) thread.Join();
}

void Workers::Post(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
    if (threads_.size() < count_)
      threads_.emplace_back(name_ + std::to_string(threads_.size()), [this] { Run(); });
  }
  posted_.notify_one();
}

void Workers::Run() {
  for (;;) {
    std::unique_lock lock(mutex_);
    posted_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
    if (jobs_.empty()) return;  // what was posted is done even at the end
    const auto job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
  }
}

}  // namespace vmm
