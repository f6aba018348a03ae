#pragma once
#include <napi.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_set>
#include <vector>

#include "../virtio/engine_queue.h"
#include "../virtio/kicked_queue.h"
#include "fd_poll.h"

namespace vmm {

class ChainWrap;

/// `class Virtqueue` of src/native.ts. JS thread only, but for what an engine is given.
class VirtqueueWrap : public Napi::ObjectWrap<VirtqueueWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit VirtqueueWrap(const Napi::CallbackInfo& info);
  ~VirtqueueWrap() override { Close(); }

  /// Gives the queue to an engine for good: `onKick` and `take` throw from now on, while pausing is
  /// the engine's. @throws EBUSY unless it is still whole: not served here, given away or closed.
  EngineQueue TakeQueue(Napi::Env env);

 private:
  friend class ChainWrap;
  /// What a chain, an engine or the loop comes back by; `wrap` is null once the queue is closed.
  struct Link {
    VirtqueueWrap* wrap;
    std::unordered_set<ChainWrap*> out = {};  // chains that are not given back
  };

  Napi::Value OnKick(const Napi::CallbackInfo& info);
  Napi::Value Take(const Napi::CallbackInfo& info);
  Napi::Value Pause(const Napi::CallbackInfo& info);
  Napi::Value Resume(const Napi::CallbackInfo& info);
  Napi::Value Share(const Napi::CallbackInfo& info);
  Napi::Value ShareKicks(const Napi::CallbackInfo& info);
  Napi::Value JsClose(const Napi::CallbackInfo& info);

  void CheckServedHere(Napi::Env env) const;
  void RunHandler(Napi::Env env);
  void RunNextTurn(Napi::Env env);
  Queue::Taken TakeNext(Chain* chain, uint16_t* head);
  void Complete(Napi::Env env, uint16_t head, uint32_t written);
  void Publish(Napi::Env env);
  void SettlePauses(Napi::Env env);
  void ReportIfBroken();
  void OnBroken(Napi::Env env, const char* fault);
  void Close();

  const std::shared_ptr<Link> link_ = std::make_shared<Link>(Link{this});
  std::shared_ptr<Queue> queue_;
  std::shared_ptr<EventFd> kick_;
  std::shared_ptr<EventFd> irq_;
  Napi::FunctionReference on_broken_;
  std::function<void(const char*)> post_broken_;
  Napi::FunctionReference handler_;
  Napi::FunctionReference next_turn_;
  std::shared_ptr<FdPoll> poll_;
  std::shared_ptr<KickedQueue> kicked_;           // null if nobody else serves it
  std::optional<KickedQueue::Turn> paused_turn_;  // while it is paused
  std::vector<Napi::Promise::Deferred> pausing_;
  uint32_t taken_ = 0;  // since the handler was last called, or the queue was empty
  bool engine_ = false;
  bool paused_ = false;
  bool in_handler_ = false;
  bool scheduled_ = false;
};

}  // namespace vmm
