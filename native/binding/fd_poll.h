#pragma once
#include <napi.h>

#include <functional>
#include <memory>
#include <utility>

#include "loop_poll.h"

namespace vmm {

/// Has the event loop call back while a file descriptor is readable. It keeps nothing alive: not
/// the process, and not the descriptor, which must stay open until `Close`. JS thread only.
class FdPoll : LoopPoll::Watcher {
 public:
  using Ready = std::function<void(Napi::Env)>;  // does not throw

  explicit FdPoll(Ready ready) : ready_(std::move(ready)) {}
  /// 0 or a negative errno: EEXIST if something polls this fd already.
  static int Start(Napi::Env env, int fd, Ready ready, std::shared_ptr<FdPoll>* out);
  /// `ready` is not called again. Idempotent; the end of the environment does it, too.
  void Close();

 private:
  void OnReady(Napi::Env env, int events) override;
  void OnClosed(Napi::Env env, bool environment_ends) override;

  Ready ready_;
  LoopPoll* poll_ = nullptr;      // null once closed
  std::shared_ptr<FdPoll> self_;  // while the loop knows of it
};

}  // namespace vmm
