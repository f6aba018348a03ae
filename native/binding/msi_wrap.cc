#include "msi_wrap.h"

#include <utility>

#include "args.h"
#include "js_queue.h"
#include "sys_error.h"

namespace vmm {

Napi::Function MsiWrap::Define(Napi::Env env) {
  return DefineClass(
      env, "Msi",
      {InstanceMethod<&MsiWrap::Route>("route"), InstanceMethod<&MsiWrap::Mask>("mask"),
       InstanceMethod<&MsiWrap::JsClose>("close")});
}

MsiWrap::MsiWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "Msi is made by Vm.msi");
  msi_ = std::move(*info[0].As<Napi::External<Added>>().Data());
}

Napi::Value MsiWrap::Route(const Napi::CallbackInfo& info) {
  const Napi::Object address = ToObject(info[0], "address");
  const MsiMessage message{ToUint<uint32_t>(address.Get("low"), "low"),
                           ToUint<uint32_t>(address.Get("high"), "high"),
                           ToUint<uint32_t>(info[1], "data")};
  if (const auto routes = msi_.routes.lock()) routes->Route(msi_.gsi, message);
  return info.Env().Undefined();
}

Napi::Value MsiWrap::Mask(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const bool masked = info[0].ToBoolean();
  auto routes = msi_.routes.lock();
  if (routes == nullptr || !routes->Changes(msi_.gsi, masked)) return env.Undefined();
  return JsQueue::Of(env).RunOnKvmWorker(env, [routes = std::move(routes), gsi = msi_.gsi, masked] {
    return Status{-routes->Mask(gsi, masked), "ioctl(KVM_IRQFD, KVM_SET_GSI_ROUTING)"};
  });
}

/// KVM lets go of an irqfd when nobody looks at it any more: the JS thread does not wait for that.
Napi::Value MsiWrap::JsClose(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto routes = std::exchange(msi_.routes, {}).lock();
  if (routes == nullptr) {
    const auto closed = Napi::Promise::Deferred::New(env);
    closed.Resolve(env.Undefined());
    return closed.Promise();
  }
  return JsQueue::Of(env).RunOnKvmWorker(env, [routes = std::move(routes), gsi = msi_.gsi] {
    routes->Remove(gsi);
    return Status{};
  });
}

}  // namespace vmm
