#pragma once
#include <napi.h>
#include <uv.h>

#include <functional>
#include <memory>
#include <utility>

namespace vmm {

/// Has the event loop call back while a file descriptor is readable. It keeps nothing alive: not
/// the process, and not the descriptor, which must stay open until `Close`. JS thread only.
class FdPoll {
 public:
  using Ready = std::function<void(Napi::Env)>;  // does not throw

  FdPoll(Napi::Env env, Ready ready) : env_(env), ready_(std::move(ready)) {}
  /// 0 or a negative errno: EEXIST if something polls this fd already.
  static int Start(Napi::Env env, int fd, Ready ready, std::shared_ptr<FdPoll>* out);
  /// `ready` is not called again. Idempotent; the end of the environment does it, too.
  void Close();

 private:
  static void OnReadable(uv_poll_t* poll, int status, int events);
  static void OnEnvironmentEnd(napi_async_cleanup_hook_handle hook, void* self);
  static void OnClosed(uv_handle_t* handle);

  const Napi::Env env_;
  Ready ready_;
  uv_poll_t poll_{};
  napi_async_cleanup_hook_handle hook_ = nullptr;
  std::shared_ptr<FdPoll> self_;  // while the loop knows of it
};

}  // namespace vmm
