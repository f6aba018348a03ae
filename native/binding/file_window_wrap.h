#pragma once
#include <napi.h>

#include <memory>

#include "../memory/file_window.h"

namespace vmm {

/// What src/native-vhost.ts declares as `FileWindow`.
class FileWindowWrap : public Napi::ObjectWrap<FileWindowWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit FileWindowWrap(const Napi::CallbackInfo& info);

  /// Throws TypeError if the value is none, or closed.
  static std::shared_ptr<FileWindow> ToWindow(Napi::Value value, const char* name);

 private:
  Napi::Value Map(const Napi::CallbackInfo& info);
  Napi::Value Unmap(const Napi::CallbackInfo& info);
  Napi::Value Sync(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  std::shared_ptr<FileWindow> core_;  // null once closed
};

}  // namespace vmm
