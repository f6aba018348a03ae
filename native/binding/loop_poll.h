#pragma once
#include <napi.h>
#include <uv.h>

#include <functional>
#include <memory>
#include <unordered_set>

namespace vmm {

class LoopPoll;

/// Every LoopPoll of one JS environment, so that libuv has let go of them before it ends.
class LoopPolls {
 public:
  explicit LoopPolls(Napi::Env env);
  LoopPolls(const LoopPolls&) = delete;
  LoopPolls& operator=(const LoopPolls&) = delete;

 private:
  friend class LoopPoll;
  static void OnEnd(napi_async_cleanup_hook_handle hook, void* self);
  void Remove(LoopPoll* poll);

  std::unordered_set<LoopPoll*> open_;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  bool ending_ = false;
};

/// Watches one descriptor on the JS thread's own loop: no thread, and no wake-up while nothing
/// happens. It keeps the process alive until it is closed, or `Unref`.
class LoopPoll {
 public:
  /// Who watches. Both are called from the loop, with no JS on the stack.
  class Watcher {
   public:
    /// `events` of those watched for; after a hang-up or an error all of them: the call says more.
    virtual void OnReady(Napi::Env env, int events) = 0;
    /// The last that is heard. While the environment ends, no JS can be called.
    virtual void OnClosed(Napi::Env env, bool environment_ends) = 0;

   protected:
    ~Watcher() = default;
  };

  /// `fd` is borrowed until Close. Null, and an errno in `error`, if it cannot be watched.
  static LoopPoll* Open(Napi::Env env, int fd, Watcher* watcher, int* error);

  /// The process need not stay for it.
  void Unref() { uv_unref(reinterpret_cast<uv_handle_t*>(&handle_)); }
  /// Of UV_READABLE and UV_WRITABLE; 0 for none. What is watched for already costs nothing.
  void Watch(int events);
  /// The descriptor may be closed at once; `OnClosed` follows, and ends this.
  void Close();

 private:
  friend class LoopPolls;
  LoopPoll(Napi::Env env, Watcher* watcher) : env_(env), watcher_(watcher) {}
  static void OnEvents(uv_poll_t* handle, int status, int events);
  static void OnHandleClosed(uv_handle_t* handle);

  const Napi::Env env_;
  Watcher* const watcher_;
  int events_ = 0;
  uv_poll_t handle_{};
};

}  // namespace vmm
