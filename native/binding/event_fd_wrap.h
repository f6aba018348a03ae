#pragma once
#include <napi.h>

#include <memory>

#include "../base/event_fd.h"

namespace vmm {

/// `class EventFd` of src/native.ts.
class EventFdWrap : public Napi::ObjectWrap<EventFdWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit EventFdWrap(const Napi::CallbackInfo& info);

  /// The eventfd of an argument. @throws TypeError with its name if it is closed.
  static std::shared_ptr<EventFd> ToEvent(Napi::Value value, const char* name);

 private:
  Napi::Value Descriptor(const Napi::CallbackInfo& info);
  Napi::Value Signal(const Napi::CallbackInfo& info);
  Napi::Value Take(const Napi::CallbackInfo& info);
  Napi::Value Pending(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  std::shared_ptr<EventFd> event_;  // null once closed
};

}  // namespace vmm
