#include <napi.h>

#include "addon_data.h"
#include "boot_plan_args.h"
#include "guest_memory_wrap.h"
#include "vm_wrap.h"

/// What src/native.ts declares as `Native`.
static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  auto* data = new vmm::AddonData(env);
  env.SetInstanceData(data);
  data->irq = Napi::Persistent(vmm::IrqWrap::Define(env));
  data->uart = Napi::Persistent(vmm::UartWrap::Define(env));
  data->set_immediate = Napi::Persistent(env.Global().Get("setImmediate").As<Napi::Function>());
  exports.Set("GuestMemory", vmm::GuestMemoryWrap::Define(env));
  exports.Set("Vm", vmm::VmWrap::Define(env));
  exports.Set("supportedCpuid", Napi::Function::New<vmm::SupportedCpuid>(env));
  return exports;
}

NODE_API_MODULE(cloud_hypervisor, Init)
