#include "net.h"

#include <utility>

#include "net_pair.h"

namespace vmm {

NetEngine::NetEngine(const NetOptions& options)
    : id_(options.id), rx_options_(options.rx), tx_limiter_(options.tx_limiter) {
  for (const int tap : options.taps) {
    auto port = std::make_shared<NetPort>();
    port->tap = tap;
    port->on = pairs_.empty();
    port->on_tap_gone = [pair = pairs_.size(), on_tap_error = options.on_tap_error] {
      if (on_tap_error) on_tap_error("The tap of queue pair " + std::to_string(pair) + " is gone");
    };
    pairs_.push_back({std::move(port), nullptr});
  }
}

int NetEngine::Start(std::vector<std::optional<EngineQueue>> queues) {
  for (size_t i = 0; i < pairs_.size() && 2 * i < queues.size(); ++i) {
    std::optional<EngineQueue> rx = std::move(queues[2 * i]);
    std::optional<EngineQueue> tx;
    if (2 * i + 1 < queues.size()) tx = std::move(queues[2 * i + 1]);
    if (!rx.has_value() && !tx.has_value()) continue;
    pairs_[i].kick = rx.has_value() ? rx->kick : tx->kick;
    auto work = std::make_unique<NetPair>(std::move(rx), std::move(tx), pairs_[i].port, rx_options_,
                                          tx_limiter_);
    const int rc = AddThread(id_ + "_qp" + std::to_string(i), {}, std::move(work));
    if (rc < 0) return rc;
  }
  return 0;
}

void NetEngine::SetPairs(size_t count) {
  for (size_t i = 0; i < pairs_.size(); ++i) {
    pairs_[i].port->on.store(i < count);
    if (pairs_[i].kick != nullptr) pairs_[i].kick->Signal();
  }
}

NetCounters NetEngine::counters() const {
  NetCounters sum;
  for (const Pair& pair : pairs_) {
    sum.rx_bytes += pair.port->rx_bytes.load(std::memory_order_relaxed);
    sum.tx_bytes += pair.port->tx_bytes.load(std::memory_order_relaxed);
    sum.rx_frames += pair.port->rx_frames.load(std::memory_order_relaxed);
    sum.tx_frames += pair.port->tx_frames.load(std::memory_order_relaxed);
  }
  return sum;
}

}  // namespace vmm
