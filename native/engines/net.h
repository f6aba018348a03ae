#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../virtio/engine_queue.h"
#include "engine.h"
#include "net_port.h"
#include "net_rx.h"

namespace vmm {

struct NetOptions {
  std::string id;         // threads are called ID_qpN
  std::vector<int> taps;  // one a queue pair; borrowed until the engine has stopped
  NetRxOptions rx;
  std::shared_ptr<RateLimiter> tx_limiter;  // null without limits; each direction has its own
  /// A tap is gone, and the engine carries on without it; once for each. Any thread.
  std::function<void(const std::string& message)> on_tap_error;
};

/// What passed, without the headers in front; `rx` is what the guest received.
struct NetCounters {
  uint64_t rx_bytes = 0, tx_bytes = 0, rx_frames = 0, tx_frames = 0;
};

/// A network card: a thread a queue pair. VIRTIO 1.2 §5.1.6. JS thread only.
class NetEngine : public Engine {
 public:
  explicit NetEngine(const NetOptions& options);

  /// Queue 2n receives and 2n + 1 transmits for pair n; a pair without queues has no thread. Once.
  /// 0 or a negative errno: what was started then runs until Stop.
  int Start(std::vector<std::optional<EngineQueue>> queues);
  /// The first `count` pairs are in use, one unless it is said: of the others, frames are dropped,
  /// and nothing is taken from their taps. A tap is attached before its pair is in use, and
  /// detached after.
  void SetPairs(size_t count);
  NetCounters counters() const;

 private:
  struct Pair {
    std::shared_ptr<NetPort> port;
    std::shared_ptr<EventFd> kick;  // that wakes its thread
  };

  const std::string id_;
  const NetRxOptions rx_options_;
  const std::shared_ptr<RateLimiter> tx_limiter_;
  std::vector<Pair> pairs_;
};

}  // namespace vmm
