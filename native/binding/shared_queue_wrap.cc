#include "shared_queue_wrap.h"

#include <utility>

namespace vmm {

Napi::Function SharedQueueWrap::Define(Napi::Env env) {
  return DefineClass(env, "SharedQueue",
                     {InstanceMethod<&SharedQueueWrap::Kick>("kick"),
                      InstanceMethod<&SharedQueueWrap::Interrupt>("interrupt"),
                      InstanceMethod<&SharedQueueWrap::Close>("close")});
}

SharedQueueWrap::SharedQueueWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  if (!info[0].IsExternal())
    throw Napi::TypeError::New(info.Env(), "SharedQueue is made by Virtqueue.share");
  Taken& taken = *info[0].As<Napi::External<Taken>>().Data();
  kick_ = std::move(taken.kick);
  irq_ = std::move(taken.irq);
  Napi::Object self = Value();
  self.Set("size", taken.options.size);
  self.Set("descGpa", static_cast<double>(taken.options.desc_gpa));
  self.Set("availGpa", static_cast<double>(taken.options.avail_gpa));
  self.Set("usedGpa", static_cast<double>(taken.options.used_gpa));
  self.Set("kickFd", kick_->get());
  self.Set("irqFd", irq_->get());
}

Napi::Value SharedQueueWrap::Kick(const Napi::CallbackInfo& info) {
  if (kick_ != nullptr) kick_->SignalUntrusted();
  return info.Env().Undefined();
}

Napi::Value SharedQueueWrap::Interrupt(const Napi::CallbackInfo& info) {
  if (irq_ != nullptr) irq_->SignalUntrusted();
  return info.Env().Undefined();
}

Napi::Value SharedQueueWrap::Close(const Napi::CallbackInfo& info) {
  kick_ = irq_ = nullptr;
  return info.Env().Undefined();
}

}  // namespace vmm
