#pragma once
#include <napi.h>

#include <cstring>
#include <string>

#include "../base/status.h"

namespace vmm {

/// The one way native code reports an operating error: shaped like Node's own SystemError, as in
/// `EINVAL: Invalid argument, ioctl(KVM_SET_USER_MEMORY_REGION) index=3`, with its code 'EINVAL',
/// errno -22 and syscall 'ioctl(KVM_SET_USER_MEMORY_REGION)'.
inline Napi::Error SysError(Napi::Env env, const Status& status) {
  const char* name = strerrorname_np(status.error);
  const std::string code = name != nullptr ? name : "E" + std::to_string(status.error);
  const char* description = strerrordesc_np(status.error);
  std::string message =
      code + ": " + (description != nullptr ? description : "Unknown error") + ", " + status.call;
  if (status.index >= 0) message += " index=" + std::to_string(status.index);
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", code);
  error.Set("errno", Napi::Number::New(env, -status.error));
  error.Set("syscall", status.call);
  return error;
}

/// `rc` as the core returns it: 0, or a negative errno that is thrown.
inline void ThrowIfFailed(Napi::Env env, int rc, const char* call) {
  if (rc < 0) throw SysError(env, Status{-rc, call});
}

inline void ThrowIfFailed(Napi::Env env, const Status& status) {
  if (!status.ok()) throw SysError(env, status);
}

}  // namespace vmm
