#pragma once
#include <napi.h>

#include <memory>

#include "../base/event_fd.h"
#include "../virtio/queue.h"

namespace vmm {

/// `interface SharedQueue` of src/native-vhost.ts, made by `Virtqueue.share`: a queue that another
/// process serves.
class SharedQueueWrap : public Napi::ObjectWrap<SharedQueueWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit SharedQueueWrap(const Napi::CallbackInfo& info);

  struct Taken {
    QueueOptions options;
    std::shared_ptr<EventFd> kick, irq;
  };

 private:
  Napi::Value Kick(const Napi::CallbackInfo& info);
  Napi::Value Interrupt(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  std::shared_ptr<EventFd> kick_, irq_;  // null once closed
};

}  // namespace vmm
