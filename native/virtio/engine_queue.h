#pragma once
#include <functional>
#include <memory>

#include "../base/event_fd.h"
#include "queue.h"

namespace vmm {

/// A virtqueue with what surrounds it, as it is handed to an engine: it belongs to one thread of
/// the engine from then on.
struct EngineQueue {
  std::shared_ptr<Queue> queue;
  std::shared_ptr<EventFd> kick;
  std::shared_ptr<EventFd> irq;
  /// Any thread, never blocks. The driver broke a rule of the queue; `fault` is `queue->fault()`.
  /// The device hears of it once, however often it is called, and not at all after a reset.
  std::function<void(const char* fault)> on_broken;
};

}  // namespace vmm
