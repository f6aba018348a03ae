#include "event_fd_wrap.h"

#include <errno.h>

#include <string>

#include "args.h"
#include "sys_error.h"

namespace vmm {

Napi::Function EventFdWrap::Define(Napi::Env env) {
  return DefineClass(
      env, "EventFd",
      {InstanceAccessor<&EventFdWrap::Descriptor>("fd"),
       InstanceMethod<&EventFdWrap::Signal>("signal"), InstanceMethod<&EventFdWrap::Take>("take"),
       InstanceMethod<&EventFdWrap::Pending>("pending"),
       InstanceMethod<&EventFdWrap::Close>("close")});
}

EventFdWrap::EventFdWrap(const Napi::CallbackInfo& info)
    : ObjectWrap(info), event_(std::make_shared<EventFd>()) {
  if (!event_->ok()) throw SysError(info.Env(), {errno, "eventfd"});
}

std::shared_ptr<EventFd> EventFdWrap::ToEvent(Napi::Value value, const char* name) {
  const auto& event = Unwrap(ToObject(value, name))->event_;
  if (event == nullptr) throw Napi::TypeError::New(value.Env(), std::string(name) + " is closed");
  return event;
}

Napi::Value EventFdWrap::Descriptor(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), event_ == nullptr ? -1 : event_->get());
}

Napi::Value EventFdWrap::Signal(const Napi::CallbackInfo& info) {
  if (event_ != nullptr) event_->SignalUntrusted();
  return info.Env().Undefined();
}

Napi::Value EventFdWrap::Take(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), event_ != nullptr && event_->TakeUntrusted());
}

Napi::Value EventFdWrap::Pending(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), event_ != nullptr && event_->Pending());
}

Napi::Value EventFdWrap::Close(const Napi::CallbackInfo& info) {
  event_ = nullptr;
  return info.Env().Undefined();
}

}  // namespace vmm
