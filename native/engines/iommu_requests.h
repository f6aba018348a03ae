#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "../base/event_fd.h"
#include "../kvm/exit_bus.h"
#include "../memory/io_domain.h"
#include "../virtio/chain.h"
#include "../virtio/kicked_queue.h"

namespace vmm {

/// MAP and UNMAP of a virtio-iommu, VIRTIO 1.2 §5.13.6.3 and .4, answered on the vCPU's thread that
/// kicks: a driver spins until they are. It is the register that is kicked by, of any value.
///
/// All else is left to the JS thread, from the first request on that is not for here: one of
/// another type or domain, one that is cut short, an UNMAP that has to wait for a device.
class IommuRequests : public NativeDevice {
 public:
  explicit IommuRequests(std::shared_ptr<const IoDomains> domains) : domains_(std::move(domains)) {}

  /// JS thread. How it hears of what is left to it; before Open, that is each kick.
  void SetKick(std::shared_ptr<EventFd> kick);
  /// JS thread. The queue that is served from now on.
  void Open(std::shared_ptr<KickedQueue> queue);

  uint32_t Read(uint32_t, uint8_t) override { return UINT32_MAX; }
  void Write(uint32_t, uint8_t, uint32_t) override;

 private:
  bool Serve(Queue* queue);
  /// How many bytes the answer has; nothing if it is not for here.
  std::optional<uint32_t> Answer(const Chain& chain) const;
  std::optional<IoStatus> CarryOut(const Chain& chain) const;

  const std::shared_ptr<const IoDomains> domains_;
  std::mutex mutex_;  // guards the next two, of which the queue has a mutex of its own
  std::shared_ptr<EventFd> kick_;
  std::shared_ptr<KickedQueue> queue_;
  Chain chain_;  // of whoever serves the queue
};

}  // namespace vmm
