#include <napi.h>
#include <unistd.h>

#include "../base/clock.h"
#include "../sys/trim.h"
#include "addon_data.h"
#include "block_counters_wrap.h"
#include "block_engine_wrap.h"
#include "boot_plan_args.h"
#include "byte_port_wrap.h"
#include "chain_wrap.h"
#include "disk_image_wrap.h"
#include "disk_wrap.h"
#include "dma_space_wrap.h"
#include "event_fd_wrap.h"
#include "fd_socket_wrap.h"
#include "file_window_wrap.h"
#include "guest_memory_wrap.h"
#include "irq_wrap.h"
#include "msi_wrap.h"
#include "net_engine_wrap.h"
#include "rate_limiter_wrap.h"
#include "serial_line_wrap.h"
#include "shared_queue_wrap.h"
#include "tap_wrap.h"
#include "vfio_wrap.h"
#include "virtqueue_wrap.h"
#include "vm_wrap.h"
#include "vsock_engine_wrap.h"

static Napi::Value Trim(const Napi::CallbackInfo& info) {
  return vmm::JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [] {
    vmm::TrimMemory();
    return vmm::Status{};
  });
}

static void PrepareVm(const Napi::CallbackInfo& info) {
  vmm::AddonData::Of(info.Env()).spare_vm.Prepare();
}

/// JavaScript's own Date has milliseconds.
static Napi::Value WallClockNs(const Napi::CallbackInfo& info) {
  return Napi::BigInt::New(info.Env(), vmm::WallNowNs());
}

/// Unlike process.exit, this does not join our threads first, which may be in a long system call.
static void ExitNow(const Napi::CallbackInfo& info) { _exit(info[0].ToNumber().Int32Value()); }

/// What src/native.ts declares as `Native`.
static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  auto* data = new vmm::AddonData(env);
  env.SetInstanceData(data);
  data->irq = Napi::Persistent(vmm::IrqLineWrap::Define(env));
  data->uart = Napi::Persistent(vmm::UartWrap::Define(env));
  data->msi = Napi::Persistent(vmm::MsiWrap::Define(env));
  data->shared_queue = Napi::Persistent(vmm::SharedQueueWrap::Define(env));
  data->chain = Napi::Persistent(vmm::ChainWrap::Define(env));
  data->set_immediate = Napi::Persistent(env.Global().Get("setImmediate").As<Napi::Function>());
  exports.Set("BlockCounters", vmm::BlockCountersWrap::Define(env));
  exports.Set("BlockEngine", vmm::BlockEngineWrap::Define(env));
  exports.Set("DiskImage", vmm::DiskImageWrap::Define(env));
  exports.Set("DmaSpace", vmm::DmaSpaceWrap::Define(env));
  exports.Set("IoDomain", vmm::IoDomainWrap::Define(env));
  exports.Set("IoDomains", vmm::IoDomainsWrap::Define(env));
  exports.Set("EventFd", vmm::EventFdWrap::Define(env));
  exports.Set("FdListener", vmm::FdListenerWrap::Define(env));
  exports.Set("FdSocket", vmm::FdSocketWrap::Define(env));
  exports.Set("FileWindow", vmm::FileWindowWrap::Define(env));
  exports.Set("GuestMemory", vmm::GuestMemoryWrap::Define(env));
  exports.Set("NetEngine", vmm::NetEngineWrap::Define(env));
  exports.Set("BytePort", vmm::BytePortWrap::Define(env));
  exports.Set("RateLimiter", vmm::RateLimiterWrap::Define(env));
  exports.Set("SerialLine", vmm::SerialLineWrap::Define(env));
  exports.Set("Passthrough", vmm::PassthroughWrap::Define(env));
  exports.Set("VfioContainer", vmm::VfioContainerWrap::Define(env));
  exports.Set("VfioDevice", vmm::VfioDeviceWrap::Define(env));
  exports.Set("Virtqueue", vmm::VirtqueueWrap::Define(env));
  exports.Set("Vm", vmm::VmWrap::Define(env));
  exports.Set("VsockEngine", vmm::VsockEngineWrap::Define(env));
  exports.Set("supportedCpuid", Napi::Function::New<vmm::SupportedCpuid>(env));
  exports.Set("trimMemory", Napi::Function::New<Trim>(env));
  exports.Set("prepareVm", Napi::Function::New<PrepareVm>(env));
  exports.Set("disks", vmm::DefineDisks(env));
  exports.Set("taps", vmm::DefineTaps(env));
  exports.Set("unixStreams", vmm::DefineUnixStreams(env));
  exports.Set("wallClockNs", Napi::Function::New<WallClockNs>(env));
  exports.Set("exitNow", Napi::Function::New<ExitNow>(env));
  return exports;
}

NODE_API_MODULE(cloud_hypervisor, Init)
