#pragma once
#include <napi.h>

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "args.h"
#include "js_queue.h"
#include "virtqueue_wrap.h"

namespace vmm {

/// A promise, and what settles it from any thread, after `on_js` has run on the JS thread. The
/// process stays alive until then.
inline std::pair<Napi::Promise, std::function<void()>> Settled(Napi::Env env,
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
