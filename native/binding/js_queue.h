#pragma once
#include <napi.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "../base/status.h"
#include "../sys/worker.h"

namespace vmm {

/// The way from any thread to the JS thread of one environment. Whoever posts holds it shared: the
/// environment may end while vCPU threads still run, and what comes after that is dropped.
class JsCalls {
 public:
  using Call = std::function<void(Napi::Env)>;

  explicit JsCalls(Napi::Env env) : function_(Function::New(env, "vmm", 0, 1)) {
    function_.Unref(env);
  }

  /// Any thread. Runs `call` on the JS thread, soon.
  void Post(Call call) {
    auto boxed = std::make_unique<Call>(std::move(call));
    const std::lock_guard lock(mutex_);
    if (open_ && function_.NonBlockingCall(boxed.get()) == napi_ok) boxed.release();
  }

  /// JS thread. Node frees the function behind `function_` when the environment ends, whoever still
  /// calls it; so this comes before.
  void Close() {
    const std::lock_guard lock(mutex_);
    if (std::exchange(open_, false)) function_.Release();
  }

  void Ref(Napi::Env env) { function_.Ref(env); }
  void Unref(Napi::Env env) { function_.Unref(env); }

 private:
  static void Run(Napi::Env env, Napi::Function, std::nullptr_t*, Call* call) {
    const std::unique_ptr<Call> owned(call);
    if (env != nullptr) (*owned)(env);
  }
  using Function = Napi::TypedThreadSafeFunction<std::nullptr_t, Call, Run>;

  std::mutex mutex_;
  bool open_ = true;
  Function function_;
};

/// What this addon keeps for one JS environment: the way to its thread, and the workers.
class JsQueue {
 public:
  explicit JsQueue(Napi::Env env) : calls_(std::make_shared<JsCalls>(env)) {
    // Hooks run last one first, so before that of the thread-safe function.
    env.AddCleanupHook([calls = calls_] { calls->Close(); });
  }
  JsQueue(const JsQueue&) = delete;
  JsQueue& operator=(const JsQueue&) = delete;

  static JsQueue& Of(Napi::Env env);

  const std::shared_ptr<JsCalls>& calls() const { return calls_; }

  /// JS thread. The process stays alive while anything is held.
  void Hold(Napi::Env env) {
    if (held_++ == 0) calls_->Ref(env);
  }
  void Drop(Napi::Env env) {
    if (--held_ == 0) calls_->Unref(env);
  }

  /// JS thread. Runs `job` on a worker; the promise is settled with what it returns.
  Napi::Promise RunOnWorker(Napi::Env env, std::function<Status()> job) {
    return RunOn(&workers_, env, std::move(job));
  }
  /// The same for what takes KVM some milliseconds, and must not wait behind a slow disk: in order.
  Napi::Promise RunOnKvmWorker(Napi::Env env, std::function<Status()> job) {
    return RunOn(&kvm_worker_, env, std::move(job));
  }

 private:
  Napi::Promise RunOn(Workers* workers, Napi::Env env, std::function<Status()> job);

  const std::shared_ptr<JsCalls> calls_;
  size_t held_ = 0;
  Workers workers_{"work", 2};
  Workers kvm_worker_{"kvm", 1};
};

}  // namespace vmm
