#pragma once
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>

namespace vmm {

/// What was done of one kind.
struct OpTotals {
  uint64_t bytes = 0;
  uint64_t ops = 0;
  int64_t latency_min_ns = std::numeric_limits<int64_t>::max();
  int64_t latency_max_ns = 0;
  int64_t latency_sum_ns = 0;
};

/// Counts operations of one kind. One thread counts and any may look: so nothing is locked, and who
/// looks may see one number of an operation and not yet the next.
class OpCounter {
 public:
  void Count(uint64_t bytes, int64_t latency_ns) {
    Set(&bytes_, Get(bytes_) + bytes);
    Set(&ops_, Get(ops_) + 1);
    Set(&min_ns_, std::min(Get(min_ns_), latency_ns));
    Set(&max_ns_, std::max(Get(max_ns_), latency_ns));
    Set(&sum_ns_, Get(sum_ns_) + latency_ns);
  }
  void AddTo(OpTotals* out) const {
    out->bytes += Get(bytes_);
    out->ops += Get(ops_);
    out->latency_min_ns = std::min(out->latency_min_ns, Get(min_ns_));
    out->latency_max_ns = std::max(out->latency_max_ns, Get(max_ns_));
    out->latency_sum_ns += Get(sum_ns_);
  }

 private:
  template <class T>
  static T Get(const std::atomic<T>& from) {
    return from.load(std::memory_order_relaxed);
  }
  template <class T>
  static void Set(std::atomic<T>* to, T value) {
    to->store(value, std::memory_order_relaxed);
  }

  std::atomic<uint64_t> bytes_ = 0, ops_ = 0;
  std::atomic<int64_t> min_ns_ = OpTotals{}.latency_min_ns, max_ns_ = 0, sum_ns_ = 0;
};

/// What the queues of a disk have done. It outlives the engines that drivers start and end.
class BlockCounters {
 public:
  struct alignas(64) Queue {  // no two threads' in one cache line
    OpCounter reads, writes;
  };

  /// Of queue `number`, for its thread. JS thread only, as Reads and Writes are.
  Queue* ForQueue(size_t number) {
    while (queues_.size() <= number) queues_.emplace_back();
    return &queues_[number];
  }
  OpTotals Reads() const { return Total(&Queue::reads); }
  OpTotals Writes() const { return Total(&Queue::writes); }

 private:
  OpTotals Total(OpCounter Queue::*kind) const {
    OpTotals total;
    for (const Queue& queue : queues_) (queue.*kind).AddTo(&total);
    return total;
  }

  std::deque<Queue> queues_;  // none ever moves
};

}  // namespace vmm
