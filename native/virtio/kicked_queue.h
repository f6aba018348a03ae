#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "../base/event_fd.h"
#include "queue.h"

namespace vmm {

/// A virtqueue that its owner, the JS thread, shares with those who kick it: where the driver waits
/// for its answer, what the kicking vCPU's thread can do itself nobody has to be woken for.
class KickedQueue {
 public:
  KickedQueue(std::shared_ptr<Queue> queue, std::shared_ptr<EventFd> irq)
      : queue_(std::move(queue)), irq_(std::move(irq)) {}

  /// Any thread. Has `serve` look at the queue, unless it is the owner's turn. False if the owner
  /// is to look, too, as where `serve` has returned that.
  template <class Serve>
  [[nodiscard]] bool OnKick(Serve serve) {
    if (turns_.load() > 0) return false;  // else the owner might wait long for the mutex
    const std::lock_guard lock(mutex_);
    if (turns_.load() > 0 || queue_ == nullptr) return false;
    const bool done = serve(queue_.get());
    if (queue_->Publish()) irq_->Signal();
    return done;
  }

  /// JS thread. As long as one exists, nobody but the owner touches the queue.
  class Turn {
   public:
    /// Null is of a queue that is not shared.
    explicit Turn(std::shared_ptr<KickedQueue> queue) : queue_(std::move(queue)) {
      if (queue_ == nullptr) return;
      queue_->turns_.fetch_add(1);
      const std::lock_guard until_others_are_through(queue_->mutex_);
    }
    ~Turn() {
      if (queue_ != nullptr) queue_->turns_.fetch_sub(1);
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    const std::shared_ptr<KickedQueue> queue_;
  };

  /// JS thread. Its owner is done with it.
  void Close() {
    const std::lock_guard lock(mutex_);
    queue_ = nullptr;
  }

 private:
  std::atomic<uint32_t> turns_ = 0;
  std::mutex mutex_;
  std::shared_ptr<Queue> queue_;
  const std::shared_ptr<EventFd> irq_;
};

}  // namespace vmm
