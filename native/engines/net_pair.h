#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "../sys/host_cpus.h"
#include "../virtio/engine_queue.h"
#include "busy_poll.h"
#include "engine.h"
#include "net_port.h"
#include "net_rx.h"
#include "net_tx.h"

namespace vmm {

/// Serves a queue pair, and its file of the tap. VIRTIO 1.2 §5.1.6.
class NetPair final : public EngineWork {
 public:
  /// At least one of the queues is there; a driver may leave the other disabled.
  NetPair(std::optional<EngineQueue> rx, std::optional<EngineQueue> tx,
          std::shared_ptr<NetPort> port, const NetRxOptions& options,
          std::shared_ptr<RateLimiter> tx_limiter);

  void Serve(const std::atomic<bool>& leave) override;
  void Wake() override { wake_->Signal(); }

 private:
  bool HasTap() const { return port_->on.load() && !gone_; }
  bool IsOver() const;
  bool IsBusy() const;
  void HearIommu();
  void ServeRound();
  bool LookAWhile(const std::atomic<bool>& leave);
  void Sleep();
  std::optional<int64_t> NextTimeNs() const;
  short TapEvents() const;
  short LookAtTap() const;
  void Advance(short tap_events);
  void LoseTap();

  const std::shared_ptr<NetPort> port_;
  std::optional<NetRx> rx_;
  std::optional<NetTx> tx_;
  const std::shared_ptr<EventFd> wake_;  // a kick of either
  NetWait rx_wait_, tx_wait_;
  bool gone_ = false;
  int frames_ = 0;  // of the last round
  BusyPoll busy_poll_{UsableCpus()};
};

}  // namespace vmm
