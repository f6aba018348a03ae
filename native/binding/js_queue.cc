#include "js_queue.h"

#include "addon_data.h"
#include "sys_error.h"

namespace vmm {

JsQueue& JsQueue::Of(Napi::Env env) { return AddonData::Of(env); }

Napi::Promise JsQueue::RunOn(Workers* workers, Napi::Env env, std::function<Status()> job) {
  const auto deferred = std::make_shared<Napi::Promise::Deferred>(env);
  Hold(env);
  workers->Post([this, deferred, job = std::move(job)]() mutable {
    const Status status = job();
    job = nullptr;  // what it holds goes here, not on the JS thread
    calls_->Post([this, deferred, status](Napi::Env js) {
      Drop(js);
      if (status.ok())
        deferred->Resolve(js.Undefined());
      else
        deferred->Reject(SysError(js, status).Value());
    });
  });
  return deferred->Promise();
}

}  // namespace vmm
