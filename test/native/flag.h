#pragma once
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>

/// What another thread says once.
class Flag {
 public:
  std::function<void()> Setter() {
    return [this] {
      const std::lock_guard lock(mutex_);
      set_ = true;
      changed_.notify_all();
    };
  }
  bool Await(int timeout_ms = 10'000) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms), [this] { return set_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
};
