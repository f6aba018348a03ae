#pragma once
#include <napi.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "args.h"
#include "js_queue.h"
#include "virtqueue_wrap.h"

namespace vmm {

/// What is common to the engines of src/native-*.ts, `Wrap` around `Core`. JS thread only.
template <typename Wrap, typename Core>
class EngineWrap : public Napi::ObjectWrap<Wrap> {
 protected:
  using OnMessage = std::function<void(const std::string&)>;
  using Method = Napi::ClassPropertyDescriptor<Wrap>;

  explicit EngineWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Wrap>(info) {}

  /// The class, with what only it can do.
  static Napi::Function DefineEngine(Napi::Env env, const char* name, std::vector<Method> own) {
    own.push_back(Wrap::InstanceMethod("pause", &Wrap::Pause));
    own.push_back(Wrap::InstanceMethod("resume", &Wrap::Resume));
    own.push_back(Wrap::InstanceMethod("stop", &Wrap::Stop));
    return Wrap::DefineClass(env, name, own);
  }

  /// Calls the JS function that `options` have by `name`, from any thread, until this has stopped.
  OnMessage Caller(Napi::Object options, const char* name) {
    on_message_ = std::make_shared<Napi::FunctionReference>(
        Napi::Persistent(ToFunction(options.Get(name), name)));
    // A FunctionReference must end on the JS thread, so the threads that call have a weak one only.
    return [calls = JsQueue::Of(options.Env()).calls(),
            weak = std::weak_ptr(on_message_)](const std::string& message) {
      calls->Post([weak, message](Napi::Env js) {
        if (const auto callback = weak.lock()) callback->Call({Napi::String::New(js, message)});
      });
    };
  }

  std::unique_ptr<Core> core_;

 public:
  Napi::Value Pause(const Napi::CallbackInfo& info) {
    auto [promise, settle] = Settled(info.Env(), [] {});
    core_->Pause(settle);
    return promise;
  }

  Napi::Value Resume(const Napi::CallbackInfo& info) {
    core_->Resume();
    return info.Env().Undefined();
  }

  /// Threads are joined once each has made its last call, so that takes no time. Until then this is
  /// not collected: the destructor would wait for what is in flight.
  Napi::Value Stop(const Napi::CallbackInfo& info) {
    auto [promise, settle] = Settled(info.Env(), [this] {
      core_->Join();
      on_message_ = nullptr;  // it may know this, which could then never be collected
      this->Unref();
    });
    this->Ref();
    core_->Stop(settle);
    return promise;
  }

 private:
  /// A promise, and what settles it from any thread, after `on_js` has run on the JS thread. The
  /// process stays alive until then.
  static std::pair<Napi::Promise, std::function<void()>> Settled(Napi::Env env,
                                                                 std::function<void()> on_js) {
    JsQueue& queue = JsQueue::Of(env);
    queue.Hold(env);
    const auto deferred = std::make_shared<Napi::Promise::Deferred>(env);
    auto settle = [&queue, calls = queue.calls(), deferred, on_js = std::move(on_js)] {
      calls->Post([&queue, deferred, on_js](Napi::Env js) {
        queue.Drop(js);
        on_js();
        deferred->Resolve(js.Undefined());
      });
    };
    return {deferred->Promise(), std::move(settle)};
  }

  std::shared_ptr<Napi::FunctionReference> on_message_;
};

/// Takes over the queues of an array, in which those are undefined that the driver left disabled.
inline std::vector<std::optional<EngineQueue>> TakeQueues(Napi::Value from) {
  const Napi::Array array = ToArray(from, "queues");
  std::vector<std::optional<EngineQueue>> queues(array.Length());
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value queue = array.Get(i);
    if (queue.IsUndefined()) continue;
    queues[i] = VirtqueueWrap::Unwrap(ToObject(queue, "queues"))->TakeQueue(from.Env());
  }
  return queues;
}

}  // namespace vmm
