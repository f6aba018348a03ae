#pragma once
#include <napi.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>

#include "../base/status.h"
#include "../sys/worker.h"

namespace vmm {

/// What this addon keeps for one JS environment: the way from any thread to the JS thread, and the
/// workers. A call that comes after the environment has gone is dropped.
class JsQueue {
 public:
  explicit JsQueue(Napi::Env env) : calls_(Calls::New(env, "vmm", 0, 1)) { calls_.Unref(env); }
  ~JsQueue() { calls_.Release(); }
  JsQueue(const JsQueue&) = delete;
  JsQueue& operator=(const JsQueue&) = delete;

  static JsQueue& Of(Napi::Env env);

  /// Any thread. Runs `call` on the JS thread, soon.
  void Post(std::function<void(Napi::Env)> call) {
    auto boxed = std::make_unique<std::function<void(Napi::Env)>>(std::move(call));
    if (calls_.NonBlockingCall(boxed.get()) == napi_ok) boxed.release();
  }

  /// JS thread. The process stays alive while anything is held.
  void Hold(Napi::Env env) {
    if (held_++ == 0) calls_.Ref(env);
  }
  void Drop(Napi::Env env) {
    if (--held_ == 0) calls_.Unref(env);
  }

  /// JS thread. Runs `job` on a worker; the promise is settled with what it returns.
  Napi::Promise RunOnWorker(Napi::Env env, std::function<Status()> job);

 private:
  static void Run(Napi::Env env, Napi::Function, std::nullptr_t*,
                  std::function<void(Napi::Env)>* call) {
    const std::unique_ptr<std::function<void(Napi::Env)>> owned(call);
    if (env != nullptr) (*owned)(env);
  }
  using Calls = Napi::TypedThreadSafeFunction<std::nullptr_t, std::function<void(Napi::Env)>, Run>;

  Calls calls_;
  size_t held_ = 0;
  Workers workers_;  // last: a job may still post while they are joined
};

}  // namespace vmm
