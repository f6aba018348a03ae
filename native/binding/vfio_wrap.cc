#include "vfio_wrap.h"

#include <errno.h>
#include <linux/vfio.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "../memory/foreign_file.h"
#include "args.h"
#include "dma_space_wrap.h"
#include "event_fd_wrap.h"
#include "guest_memory_wrap.h"
#include "js_queue.h"
#include "loop_call.h"
#include "sys_error.h"
#include "vm_wrap.h"

namespace vmm {
namespace {

std::string ToText(Napi::Value value, const char* name) {
  if (!value.IsString()) throw Napi::TypeError::New(value.Env(), std::string(name) + " is no text");
  return value.As<Napi::String>().Utf8Value();
}

constexpr char kMapCall[] = "ioctl(VFIO_IOMMU_MAP_DMA)";
constexpr char kUnmapCall[] = "ioctl(VFIO_IOMMU_UNMAP_DMA)";

/// So much is pinned in microseconds; what is more is left to a worker.
constexpr uint64_t kShortBytes = 2 << 20;

uint8_t ToWidth(Napi::Value value) {
  const auto width = ToUint<uint8_t>(value, "sizeBytes");
  if (width != 1 && width != 2 && width != 4)
    throw Napi::TypeError::New(value.Env(), "sizeBytes is out of range");
  return width;
}

std::vector<DmaBlocks> ToBlocks(Napi::Value value) {
  const Napi::Array list = ToArray(value, "blocks");
  std::vector<DmaBlocks> all;
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Object from = ToObject(list.Get(i), "blocks");
    const Napi::Uint8Array plugged = ToBytes(from.Get("plugged"), "plugged");
    const uint8_t* first = plugged.Data();
    all.push_back({ToU64(from.Get("gpa"), "gpa"), ToU64(from.Get("blockBytes"), "blockBytes"),
                   std::vector<uint8_t>(first, first + plugged.ByteLength())});
  }
  return all;
}

}  // namespace

Napi::Function VfioContainerWrap::Define(Napi::Env env) {
  return DefineClass(env, "VfioContainer",
                     {InstanceMethod<&VfioContainerWrap::Follow>("follow"),
                      InstanceMethod<&VfioContainerWrap::Reach>("reach"),
                      InstanceMethod<&VfioContainerWrap::Map>("map"),
                      InstanceMethod<&VfioContainerWrap::Unmap>("unmap"),
                      InstanceMethod<&VfioContainerWrap::LeftOutBytes>("leftOutBytes"),
                      InstanceMethod<&VfioContainerWrap::Limits>("limits"),
                      InstanceMethod<&VfioContainerWrap::Close>("close")});
}

VfioContainerWrap::VfioContainerWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  ThrowIfFailed(info.Env(), VfioContainer::Open(&core_));
}

const std::shared_ptr<VfioContainer>& VfioContainerWrap::Core(Napi::Env env) const {
  if (core_ == nullptr) throw SysError(env, {EBADF, "VfioContainer"});
  return core_;
}

Napi::Value VfioContainerWrap::Follow(const Napi::CallbackInfo& info) {
  const auto& core = Core(info.Env());
  const auto* memory = GuestMemoryWrap::Unwrap(ToObject(info[0], "memory"));
  auto ram = DmaRanges(memory->core()->regions(), ToBlocks(info[1]));
  return JsQueue::Of(info.Env())
      .RunOnWorker(info.Env(), [container = core, ram = std::move(ram)]() mutable {
        return Status{-container->Follow(std::move(ram)), kMapCall};
      });
}

Napi::Value VfioContainerWrap::Reach(const Napi::CallbackInfo& info) {
  const auto& core = Core(info.Env());
  std::function<int()> go = [container = core] { return container->GoByRam(); };
  if (info[0].IsObject()) {
    const auto domain = IoDomainWrap::Unwrap(info[0].As<Napi::Object>())->core();
    go = [container = core, all = domain->All()] { return container->GoByDomain(all); };
  } else if (ToText(info[0], "to") != "ram") {
    go = [container = core] { return container->GoByDomain({}); };
  }
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [go = std::move(go)] {
    return Status{-go(), kMapCall};
  });
}

Napi::Value VfioContainerWrap::Map(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto& core = Core(env);
  const Napi::Object from = ToObject(info[0], "mapping");
  const IoMapping mapping{ToAddress(from.Get("first"), "first"),
                          ToAddress(from.Get("last"), "last"), ToAddress(from.Get("gpa"), "gpa"),
                          from.Get("isReadable").ToBoolean(), from.Get("isWritable").ToBoolean()};
  if (mapping.first > mapping.last) throw Napi::TypeError::New(env, "last is before first");
  if (mapping.last - mapping.first >= kShortBytes)
    return JsQueue::Of(env).RunOnWorker(env, [container = core, mapping] {
      return Status{-container->Map(mapping), kMapCall};
    });
  ThrowIfFailed(env, core->Map(mapping), kMapCall);
  return env.Undefined();
}

Napi::Value VfioContainerWrap::Unmap(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto& core = Core(env);
  const uint64_t first = ToAddress(info[0], "first");
  const uint64_t last = ToAddress(info[1], "last");
  if (first > last) throw Napi::TypeError::New(env, "last is before first");
  if (last - first >= kShortBytes)
    return JsQueue::Of(env).RunOnWorker(env, [container = core, first, last] {
      return Status{-container->Unmap(first, last), kUnmapCall};
    });
  ThrowIfFailed(env, core->Unmap(first, last), kUnmapCall);
  return env.Undefined();
}

Napi::Value VfioContainerWrap::Limits(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  IommuLimits limits;
  ThrowIfFailed(env, Core(env)->Limits(&limits));
  const Napi::Array ranges = Napi::Array::New(env);
  for (const IovaRange& range : limits.ranges) {
    Napi::Object object = Napi::Object::New(env);
    object.Set("first", Napi::BigInt::New(env, range.first));
    object.Set("last", Napi::BigInt::New(env, range.last));
    ranges.Set(ranges.Length(), object);
  }
  Napi::Object object = Napi::Object::New(env);
  object.Set("ranges", ranges);
  object.Set("pageSizes", Napi::BigInt::New(env, limits.page_sizes));
  return object;
}

Napi::Value VfioContainerWrap::LeftOutBytes(const Napi::CallbackInfo& info) {
  const uint64_t bytes = core_ == nullptr ? 0 : core_->left_out_bytes();
  return Napi::Number::New(info.Env(), static_cast<double>(bytes));
}

Napi::Value VfioContainerWrap::Close(const Napi::CallbackInfo& info) {
  core_ = nullptr;
  return info.Env().Undefined();
}

Napi::Function VfioDeviceWrap::Define(Napi::Env env) {
  return DefineClass(env, "VfioDevice",
                     {InstanceMethod<&VfioDeviceWrap::Open>("open"),
                      InstanceMethod<&VfioDeviceWrap::Regions>("regions"),
                      InstanceMethod<&VfioDeviceWrap::IrqCounts>("irqCounts"),
                      InstanceMethod<&VfioDeviceWrap::Read>("read"),
                      InstanceMethod<&VfioDeviceWrap::Write>("write"),
                      InstanceMethod<&VfioDeviceWrap::SetIrqs>("setIrqs"),
                      InstanceMethod<&VfioDeviceWrap::SetUnmask>("setUnmask"),
                      InstanceMethod<&VfioDeviceWrap::OnRequest>("onRequest"),
                      InstanceMethod<&VfioDeviceWrap::Reset>("reset"),
                      InstanceMethod<&VfioDeviceWrap::Close>("close")});
}

const std::shared_ptr<VfioDevice>& VfioDeviceWrap::Core(Napi::Env env) const {
  if (closed_ || !core_->is_open()) throw SysError(env, {EBADF, "VfioDevice"});
  return core_;
}

Napi::Value VfioDeviceWrap::Open(const Napi::CallbackInfo& info) {
  const auto container = VfioContainerWrap::Unwrap(ToObject(info[0], "container"))->core();
  if (container == nullptr || closed_) throw SysError(info.Env(), {EBADF, "VfioDevice"});
  return JsQueue::Of(info.Env())
      .RunOnWorker(info.Env(), [device = core_, container, group = ToText(info[1], "group"),
                                name = ToText(info[2], "name")] {
        return device->Open(container, group, name);
      });
}

Napi::Value VfioDeviceWrap::Regions(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Array list = Napi::Array::New(env);
  const auto number = [env](uint64_t value) {
    return Napi::Number::New(env, static_cast<double>(value));
  };
  for (const VfioRegion& region : Core(env)->regions()) {
    Napi::Object object = Napi::Object::New(env);
    const Napi::Array areas = Napi::Array::New(env);
    for (const VfioArea& area : region.areas) {
      Napi::Object part = Napi::Object::New(env);
      part.Set("offset", number(area.offset));
      part.Set("sizeBytes", number(area.size_bytes));
      areas.Set(areas.Length(), part);
    }
    object.Set("sizeBytes", number(region.size_bytes));
    object.Set("areas", areas);
    list.Set(list.Length(), object);
  }
  return list;
}

Napi::Value VfioDeviceWrap::IrqCounts(const Napi::CallbackInfo& info) {
  const Napi::Array list = Napi::Array::New(info.Env());
  for (const uint32_t count : Core(info.Env())->irq_counts()) list.Set(list.Length(), count);
  return list;
}

Napi::Value VfioDeviceWrap::Read(const Napi::CallbackInfo& info) {
  uint32_t value = 0;
  const int rc = Core(info.Env())
                     ->Read(ToUint<uint32_t>(info[0], "region"), ToU64(info[1], "offset"),
                            ToWidth(info[2]), &value);
  ThrowIfFailed(info.Env(), rc, "pread(VFIO device)");
  return Napi::Number::New(info.Env(), value);
}

Napi::Value VfioDeviceWrap::Write(const Napi::CallbackInfo& info) {
  const int rc = Core(info.Env())
                     ->Write(ToUint<uint32_t>(info[0], "region"), ToU64(info[1], "offset"),
                             ToWidth(info[2]), ToUint<uint32_t>(info[3], "value"));
  ThrowIfFailed(info.Env(), rc, "pwrite(VFIO device)");
  return info.Env().Undefined();
}

Napi::Value VfioDeviceWrap::SetIrqs(const Napi::CallbackInfo& info) {
  const Napi::Array events = ToArray(info[1], "events");
  std::vector<int> fds;
  for (uint32_t i = 0; i < events.Length(); ++i)
    fds.push_back(EventFdWrap::ToEvent(events.Get(i), "events")->get());
  const int rc = Core(info.Env())->SetIrqs(ToUint<uint32_t>(info[0], "index"), fds);
  ThrowIfFailed(info.Env(), rc, "ioctl(VFIO_DEVICE_SET_IRQS)");
  return info.Env().Undefined();
}

Napi::Value VfioDeviceWrap::SetUnmask(const Napi::CallbackInfo& info) {
  const auto event = EventFdWrap::ToEvent(info[0], "event");
  ThrowIfFailed(info.Env(), Core(info.Env())->SetUnmask(event->get()),
                "ioctl(VFIO_DEVICE_SET_IRQS)");
  return info.Env().Undefined();
}

Napi::Value VfioDeviceWrap::OnRequest(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto& core = Core(env);
  on_request_ = Napi::Persistent(ToFunction(info[0], "handler"));
  if (core->irq_counts()[VFIO_PCI_REQ_IRQ_INDEX] == 0 || poll_ != nullptr) return env.Undefined();
  if (!request_.ok()) throw SysError(env, {EMFILE, "eventfd"});
  const auto on_ready = [this](Napi::Env js) {
    request_.Take();
    const Napi::HandleScope scope(js);
    CallFromLoop(js, on_request_.Value(), Value(), {});
  };
  ThrowIfFailed(env, FdPoll::Start(env, request_.get(), on_ready, &poll_), "uv_poll_init");
  ThrowIfFailed(env, core->SetIrqs(VFIO_PCI_REQ_IRQ_INDEX, {request_.get()}),
                "ioctl(VFIO_DEVICE_SET_IRQS)");
  return env.Undefined();
}

Napi::Value VfioDeviceWrap::Reset(const Napi::CallbackInfo& info) {
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [device = Core(info.Env())] {
    return Status{-device->Reset(), "ioctl(VFIO_DEVICE_RESET)"};
  });
}

Napi::Value VfioDeviceWrap::Close(const Napi::CallbackInfo& info) {
  closed_ = true;
  StopWatching();
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [device = core_] {
    device->Close();
    return Status{};
  });
}

void VfioDeviceWrap::StopWatching() {
  if (poll_ != nullptr) poll_->Close();
  poll_ = nullptr;
}

Napi::Function PassthroughWrap::Define(Napi::Env env) {
  return DefineClass(env, "Passthrough",
                     {InstanceMethod<&PassthroughWrap::Map>("map"),
                      InstanceMethod<&PassthroughWrap::MapFile>("mapFile"),
                      InstanceMethod<&PassthroughWrap::Unmap>("unmap"),
                      InstanceMethod<&PassthroughWrap::Hold>("hold"),
                      InstanceMethod<&PassthroughWrap::Drop>("drop"),
                      InstanceMethod<&PassthroughWrap::Connect>("connect"),
                      InstanceMethod<&PassthroughWrap::Disconnect>("disconnect")});
}

PassthroughWrap::PassthroughWrap(const Napi::CallbackInfo& info)
    : ObjectWrap(info), core_(VmWrap::Unwrap(ToObject(info[0], "vm"))->passthrough()) {}

std::shared_ptr<Passthrough> PassthroughWrap::Core(Napi::Env env) const {
  auto core = core_.lock();
  if (core == nullptr) throw SysError(env, {ESHUTDOWN, "Vm"});
  return core;
}

Napi::Value PassthroughWrap::Map(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto core = Core(env);
  const auto& device = VfioDeviceWrap::Unwrap(ToObject(info[1], "device"))->Core(env);
  const Napi::Object from = ToObject(info[3], "area");
  const VfioArea area{ToU64(from.Get("offset"), "offset"),
                      ToU64(from.Get("sizeBytes"), "sizeBytes")};
  std::shared_ptr<std::byte> host;
  ThrowIfFailed(env, device->Map(ToUint<uint32_t>(info[2], "region"), area, &host), "mmap(BAR)");
  const int number = core->Map(ToU64(info[0], "gpa"), area.size_bytes, std::move(host));
  ThrowIfFailed(env, number, "ioctl(KVM_SET_USER_MEMORY_REGION)");
  return Napi::Number::New(env, number);
}

Napi::Value PassthroughWrap::MapFile(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto core = Core(env);
  const uint64_t size_bytes = ToU64(info[3], "sizeBytes");
  std::shared_ptr<std::byte> host;
  ThrowIfFailed(
      env, MapForeignFile(ToFd(info[1], "fd"), ToU64(info[2], "fileOffset"), size_bytes, &host),
      "mmap(BAR)");
  const int number = core->Map(ToU64(info[0], "gpa"), size_bytes, std::move(host));
  ThrowIfFailed(env, number, "ioctl(KVM_SET_USER_MEMORY_REGION)");
  return Napi::Number::New(env, number);
}

Napi::Value PassthroughWrap::Unmap(const Napi::CallbackInfo& info) {
  if (const auto core = core_.lock()) core->Unmap(ToUint<uint32_t>(info[0], "number"));
  return info.Env().Undefined();
}

Napi::Value PassthroughWrap::Hold(const Napi::CallbackInfo& info) {
  const auto& device = VfioDeviceWrap::Unwrap(ToObject(info[0], "device"))->Core(info.Env());
  const int fd = device->container()->GroupFd(device->group());
  ThrowIfFailed(info.Env(), Core(info.Env())->Hold(fd));
  return info.Env().Undefined();
}

Napi::Value PassthroughWrap::Drop(const Napi::CallbackInfo& info) {
  const auto& device = VfioDeviceWrap::Unwrap(ToObject(info[0], "device"))->Core(info.Env());
  const int fd = device->container()->GroupFd(device->group());
  if (const auto core = core_.lock()) core->Drop(fd);
  return info.Env().Undefined();
}

Napi::Value PassthroughWrap::Connect(const Napi::CallbackInfo& info) {
  const auto irq = EventFdWrap::ToEvent(info[1], "irq");
  const auto resample = EventFdWrap::ToEvent(info[2], "resample");
  const int rc = Core(info.Env())->Connect(ToUint<uint32_t>(info[0], "gsi"), *irq, *resample);
  ThrowIfFailed(info.Env(), rc, "ioctl(KVM_IRQFD)");
  return info.Env().Undefined();
}

Napi::Value PassthroughWrap::Disconnect(const Napi::CallbackInfo& info) {
  const auto irq = EventFdWrap::ToEvent(info[1], "irq");
  if (const auto core = core_.lock()) core->Disconnect(ToUint<uint32_t>(info[0], "gsi"), *irq);
  return info.Env().Undefined();
}

}  // namespace vmm
