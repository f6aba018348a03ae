#pragma once
#include <napi.h>

#include "../kvm/spare_vm.h"
#include "js_queue.h"
#include "loop_poll.h"

namespace vmm {

/// What the addon keeps for one JS environment: no static state, so that it can be loaded twice.
struct AddonData : JsQueue {
  explicit AddonData(Napi::Env env) : JsQueue(env), polls(env) {}
  static AddonData& Of(Napi::Env env) { return *env.GetInstanceData<AddonData>(); }
  Napi::FunctionReference irq, uart, msi, chain, shared_queue;  // made by native code only
  Napi::FunctionReference set_immediate;
  SpareVm spare_vm;
  LoopPolls polls;
};

}  // namespace vmm
