#include "virtqueue_wrap.h"

#include <errno.h>

#include <utility>

#include "addon_data.h"
#include "args.h"
#include "chain_wrap.h"
#include "dma_space_wrap.h"
#include "event_fd_wrap.h"
#include "guest_memory_wrap.h"
#include "loop_call.h"
#include "shared_queue_wrap.h"
#include "sys_error.h"

namespace vmm {
Napi::Function VirtqueueWrap::Define(Napi::Env env) {
  return DefineClass(
      env, "Virtqueue",
      {InstanceMethod<&VirtqueueWrap::OnKick>("onKick"),
       InstanceMethod<&VirtqueueWrap::Take>("take"), InstanceMethod<&VirtqueueWrap::Pause>("pause"),
       InstanceMethod<&VirtqueueWrap::Resume>("resume"),
       InstanceMethod<&VirtqueueWrap::Share>("share"),
       InstanceMethod<&VirtqueueWrap::ShareKicks>("shareKicks"),
       InstanceMethod<&VirtqueueWrap::JsClose>("close")});
}

VirtqueueWrap::VirtqueueWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const Napi::Object from = ToObject(info[0], "options");
  const auto gpa = [&](const char* name) { return ToAddress(from.Get(name), name); };
  QueueOptions options{ToUint<uint16_t>(from.Get("size"), "size"), gpa("descGpa"), gpa("availGpa"),
                       gpa("usedGpa")};
  options.indirect = from.Get("indirect").ToBoolean();
  options.event_idx = from.Get("eventIdx").ToBoolean();
  kick_ = EventFdWrap::ToEvent(from.Get("kick"), "kick");
  irq_ = EventFdWrap::ToEvent(from.Get("irq"), "irq");
  on_broken_ = Napi::Persistent(ToFunction(from.Get("onBroken"), "onBroken"));
  post_broken_ = [calls = JsQueue::Of(info.Env()).calls(), link = link_](const char* fault) {
    calls->Post([link, fault](Napi::Env env) {
      if (link->wrap != nullptr) link->wrap->OnBroken(env, fault);
    });
  };
  const auto* memory = GuestMemoryWrap::Unwrap(ToObject(from.Get("memory"), "memory"));
  const Napi::Value dma = from.Get("dma");
  std::shared_ptr<const DmaSpace> space;
  if (!dma.IsUndefined()) space = DmaSpaceWrap::Unwrap(ToObject(dma, "dma"))->core();
  queue_ = std::make_shared<Queue>(memory->core(), options, std::move(space));
}

EngineQueue VirtqueueWrap::TakeQueue(Napi::Env env) {
  if (queue_ == nullptr || poll_ != nullptr || queue_->in_flight_count() > 0)
    throw SysError(env, {EBUSY, "virtqueue"});
  engine_ = true;
  return {std::exchange(queue_, nullptr), std::exchange(kick_, nullptr),
          std::exchange(irq_, nullptr), std::move(post_broken_)};
}

Napi::Value VirtqueueWrap::Share(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (queue_ != nullptr && !queue_->Begin()) throw Napi::Error::New(env, queue_->fault());
  EngineQueue taken = TakeQueue(env);
  SharedQueueWrap::Taken shared{taken.queue->options(), std::move(taken.kick),
                                std::move(taken.irq)};
  return AddonData::Of(env).shared_queue.New(
      {Napi::External<SharedQueueWrap::Taken>::New(env, &shared)});
}

Napi::Value VirtqueueWrap::ShareKicks(const Napi::CallbackInfo& info) {
  CheckServedHere(info.Env());
  if (queue_ == nullptr) return info.Env().Undefined();
  kicked_ = std::make_shared<KickedQueue>(queue_, irq_);
  IoDomainsWrap::Unwrap(ToObject(info[0], "domains"))->requests()->Open(kicked_);
  return info.Env().Undefined();
}

void VirtqueueWrap::CheckServedHere(Napi::Env env) const {
  if (engine_) throw SysError(env, {EBUSY, "virtqueue"});
}

Napi::Value VirtqueueWrap::OnKick(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  CheckServedHere(env);
  if (queue_ == nullptr) return env.Undefined();
  handler_ = Napi::Persistent(ToFunction(info[0], "handler"));
  if (poll_ == nullptr) {
    const auto on_kick = [this](Napi::Env js) {
      kick_->Take();
      RunHandler(js);
    };
    ThrowIfFailed(env, FdPoll::Start(env, kick_->get(), on_kick, &poll_), "uv_poll_init");
  }
  RunNextTurn(env);  // chains may have come before anyone listened
  return env.Undefined();
}

void VirtqueueWrap::RunHandler(Napi::Env env) {
  if (queue_ == nullptr || paused_ || handler_.IsEmpty()) return;
  const KickedQueue::Turn turn(kicked_);
  if (!queue_->Begin()) return ReportIfBroken();
  const Napi::HandleScope scope(env);
  const Napi::Object self = Value();  // which lives until the handler is back, closed or not
  queue_->DisableKicks();
  taken_ = 0;
  in_handler_ = true;
  CallFromLoop(env, handler_.Value(), self, {});
  in_handler_ = false;
  Publish(env);  // one interrupt for all that the handler completed
}

/// Not by a thread-safe function: Node makes a thousand calls of such before it looks at timers.
void VirtqueueWrap::RunNextTurn(Napi::Env env) {
  if (std::exchange(scheduled_, true)) return;
  if (next_turn_.IsEmpty()) {  // one for all turns, for a guest decides how many there are
    const auto run = [link = link_](const Napi::CallbackInfo& info) {
      if (link->wrap == nullptr) return;
      link->wrap->scheduled_ = false;
      link->wrap->RunHandler(info.Env());
    };
    next_turn_ = Napi::Persistent(Napi::Function::New(env, run));
  }
  AddonData::Of(env).set_immediate.Call({next_turn_.Value()});
}

Napi::Value VirtqueueWrap::Take(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  CheckServedHere(env);
  if (queue_ == nullptr || paused_) return env.Undefined();
  if (taken_ == queue_->size()) {  // else a driver that offers for ever would have the loop
    RunNextTurn(env);
    return env.Undefined();
  }
  Chain chain;
  uint16_t head = 0;
  if (TakeNext(&chain, &head) != Queue::Taken::kChain) {
    taken_ = 0;
    ReportIfBroken();
    return env.Undefined();
  }
  ++taken_;
  ChainWrap::Taken taken{link_, queue_->regions(), &chain, head};
  return AddonData::Of(env).chain.New({Napi::External<ChainWrap::Taken>::New(env, &taken)});
}

/// If there is none the driver kicks for the next; so one that it has slipped in is looked for,
/// once: only a driver that takes back what it offered could still have none.
Queue::Taken VirtqueueWrap::TakeNext(Chain* chain, uint16_t* head) {
  if (!queue_->Begin()) return Queue::Taken::kBroken;
  const Queue::Taken first = queue_->Take(chain, head);
  if (first != Queue::Taken::kNone || !queue_->EnableKicks()) return first;
  return queue_->Take(chain, head);
}

void VirtqueueWrap::Complete(Napi::Env env, uint16_t head, uint32_t written) {
  const KickedQueue::Turn turn(kicked_);
  // If RAM has lost the rings meanwhile, the queue breaks here, and the chain is only counted.
  static_cast<void>(queue_->Begin());
  queue_->Complete(head, written);
  if (!in_handler_) Publish(env);
}

void VirtqueueWrap::Publish(Napi::Env env) {
  if (queue_ == nullptr) return;
  if (queue_->Publish()) irq_->Signal();
  ReportIfBroken();
  SettlePauses(env);
}

Napi::Value VirtqueueWrap::Pause(const Napi::CallbackInfo& info) {
  paused_ = true;
  if (!paused_turn_.has_value()) paused_turn_.emplace(kicked_);
  pausing_.emplace_back(info.Env());
  const Napi::Promise paused = pausing_.back().Promise();
  SettlePauses(info.Env());
  return paused;
}

Napi::Value VirtqueueWrap::Resume(const Napi::CallbackInfo& info) {
  paused_turn_.reset();
  if (std::exchange(paused_, false) && poll_ != nullptr) RunNextTurn(info.Env());
  return info.Env().Undefined();
}

void VirtqueueWrap::SettlePauses(Napi::Env env) {
  if (queue_ != nullptr && (in_handler_ || queue_->in_flight_count() > 0)) return;
  if (queue_ != nullptr && paused_) queue_->LetGo();
  for (const Napi::Promise::Deferred& deferred : std::exchange(pausing_, {}))
    deferred.Resolve(env.Undefined());
}

void VirtqueueWrap::ReportIfBroken() {
  if (queue_->fault() == nullptr || !post_broken_) return;
  std::exchange(post_broken_, nullptr)(queue_->fault());
  if (poll_ != nullptr) poll_->Close();
}

void VirtqueueWrap::OnBroken(Napi::Env env, const char* fault) {
  const Napi::FunctionReference on_broken = std::move(on_broken_);
  if (!on_broken.IsEmpty())
    CallFromLoop(env, on_broken.Value(), Value(), {Napi::String::New(env, fault)});
}

Napi::Value VirtqueueWrap::JsClose(const Napi::CallbackInfo& info) {
  Close();
  SettlePauses(info.Env());
  return info.Env().Undefined();
}

void VirtqueueWrap::Close() {
  link_->wrap = nullptr;
  for (ChainWrap* chain : std::exchange(link_->out, {})) chain->Drop();
  if (poll_ != nullptr) poll_->Close();
  if (kicked_ != nullptr) kicked_->Close();
  queue_ = nullptr;
  kick_ = irq_ = nullptr;
  handler_.Reset();
  next_turn_.Reset();
  on_broken_.Reset();
}

}  // namespace vmm
