#include "vm_wrap.h"

#include <errno.h>

#include <algorithm>
#include <utility>

#include "../platform/pci_address.h"
#include "../platform/pm_timer.h"
#include "../platform/sink.h"
#include "../serial/debug_port.h"
#include "../serial/output.h"
#include "addon_data.h"
#include "args.h"
#include "boot_plan_args.h"
#include "byte_port_wrap.h"
#include "dma_space_wrap.h"
#include "event_fd_wrap.h"
#include "file_window_wrap.h"
#include "guest_memory_wrap.h"
#include "irq_wrap.h"
#include "msi_wrap.h"
#include "serial_line_wrap.h"
#include "sys_error.h"

namespace vmm {
namespace {

/// The registers that queues are kicked by, one a queue.
constexpr uint64_t kKickBytes = 4;

/// What nobody's address reads.
constexpr uint32_t kAllOnes = ~uint32_t{0};

Space ToSpace(Napi::Value value) {
  return value.ToString().Utf8Value() == "mmio" ? Space::kMmio : Space::kPort;
}

VcpuOptions ToVcpuOptions(Napi::Object from) {
  VcpuOptions options{ToUint<uint32_t>(from.Get("apicId"), "apicId"), {}};
  const Napi::Array cpus = ToArray(from.Get("hostCpus"), "hostCpus");
  for (uint32_t i = 0; i < cpus.Length(); ++i)
    options.host_cpus.push_back(ToUint<uint32_t>(cpus.Get(i), "hostCpus"));
  return options;
}

/// Wraps a native object that only native code may make: its constructor is given it as External.
template <class T>
Napi::Value NewWrapped(Napi::Env env, const Napi::FunctionReference& constructor, T* core) {
  return constructor.New({Napi::External<T>::New(env, core)});
}

}  // namespace

Napi::Function VmWrap::Define(Napi::Env env) {
  return DefineClass(env, "Vm",
                     {InstanceMethod<&VmWrap::Claim>("claim"),
                      InstanceMethod<&VmWrap::Release>("release"),
                      InstanceMethod<&VmWrap::MapMemory>("mapMemory"),
                      InstanceMethod<&VmWrap::TscKhz>("tscKhz"),
                      InstanceMethod<&VmWrap::CreateIrq>("irq"),
                      InstanceMethod<&VmWrap::CreateUart>("uart"),
                      InstanceMethod<&VmWrap::AttachWindow>("attachWindow"),
                      InstanceMethod<&VmWrap::DetachWindow>("detachWindow"),
                      InstanceMethod<&VmWrap::AttachKick>("attachKick"),
                      InstanceMethod<&VmWrap::DetachKick>("detachKick"),
                      InstanceMethod<&VmWrap::ClaimKick>("claimKick"),
                      InstanceMethod<&VmWrap::ReleaseKick>("releaseKick"),
                      InstanceMethod<&VmWrap::CreateMsi>("msi"),
                      InstanceMethod<&VmWrap::AddPmTimer>("pmTimer"),
                      InstanceMethod<&VmWrap::AddPciAddress>("pciAddress"),
                      InstanceMethod<&VmWrap::AddSink>("sink"),
                      InstanceMethod<&VmWrap::AddDebugPort>("debugPort"),
                      InstanceMethod<&VmWrap::Boot>("boot"),
                      InstanceMethod<&VmWrap::Run>("run"),
                      InstanceMethod<&VmWrap::Pause>("pause"),
                      InstanceMethod<&VmWrap::Resume>("resume"),
                      InstanceMethod<&VmWrap::Nmi>("nmi"),
                      InstanceMethod<&VmWrap::MakeVcpus>("makeVcpus"),
                      InstanceMethod<&VmWrap::WhenReset>("whenReset"),
                      InstanceMethod<&VmWrap::Plug>("plug"),
                      InstanceMethod<&VmWrap::Unplug>("unplug"),
                      InstanceMethod<&VmWrap::Stop>("stop")});
}

VmWrap::VmWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const Napi::Env env = info.Env();
  const Napi::Object options = ToObject(info[1], "options");
  VmOptions core_options{{},
                         ToUint<uint32_t>(options.Get("vcpusMax"), "vcpusMax"),
                         ToU64(options.Get("tssGpa"), "tssGpa")};
  const Napi::Array vcpus = ToArray(options.Get("vcpus"), "vcpus");
  for (uint32_t i = 0; i < vcpus.Length(); ++i)
    core_options.vcpus.push_back(ToVcpuOptions(ToObject(vcpus.Get(i), "vcpus")));
  on_event_ = Napi::Persistent(ToFunction(options.Get("onEvent"), "onEvent"));
  const auto* memory = GuestMemoryWrap::Unwrap(ToObject(info[0], "memory"));

  late_answers_ = std::make_unique<LateAnswers>(LateAnswers::Listener{
      [this](size_t vcpu, uint32_t value) { core_->AnswerLate(vcpu, value); },
      [this](Napi::Env js, size_t vcpu, const std::string& reason) {
        core_->AnswerLate(vcpu, kAllOnes);
        Emit(js, "handler-error", {VmEvent::Kind::kVcpuFailure, vcpu, reason});
      }});
  link_ = std::make_shared<Link>(Link{this});
  const auto wake = [calls = JsQueue::Of(env).calls(), link = link_] {
    calls->Post([link](Napi::Env js) {
      if (link->wrap != nullptr) link->wrap->OnWake(js);
    });
  };
  std::unique_ptr<Vm> core;
  VmFds fds;
  ThrowIfFailed(env, AddonData::Of(env).spare_vm.Take(&fds));
  ThrowIfFailed(env, Vm::Create(core_options, std::move(fds), memory->core(), wake, &core));
  core_ = std::move(core);
  msis_ = core_->MakeMsiRoutes();
  passthrough_ = core_->MakePassthrough();
}

VmWrap::~VmWrap() { link_->wrap = nullptr; }

Vm& VmWrap::Core(Napi::Env env) {
  if (core_ == nullptr || stopping_) throw SysError(env, {ESHUTDOWN, "Vm"});
  return *core_;
}

Napi::Value VmWrap::Claim(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object claim = ToObject(info[0], "claim");
  const Napi::Object object = ToObject(info[1], "handler");
  const Space space = ToSpace(claim.Get("space"));
  const uint64_t base = ToU64(claim.Get("base"), "base");
  const uint32_t id = next_handler_++;
  const BusRange range{base, ToU64(claim.Get("sizeBytes"), "sizeBytes"), nullptr, id};
  Handler handler{Napi::Persistent(object),
                  Napi::Persistent(ToFunction(object.Get("read"), "handler.read")),
                  Napi::Persistent(ToFunction(object.Get("write"), "handler.write")), space, base};
  ThrowIfFailed(env, Core(env).bus().Claim(space, range), "claim");
  handlers_.emplace(id, std::move(handler));
  return env.Undefined();
}

Napi::Value VmWrap::Release(const Napi::CallbackInfo& info) {
  const Napi::Object claim = ToObject(info[0], "claim");
  const Space space = ToSpace(claim.Get("space"));
  const uint64_t base = ToU64(claim.Get("base"), "base");
  Core(info.Env()).bus().Release(space, base);
  std::erase_if(handlers_, [&](const auto& entry) {
    return entry.second.space == space && entry.second.base == base;
  });
  return info.Env().Undefined();
}

Napi::Value VmWrap::TscKhz(const Napi::CallbackInfo& info) {
  const int khz = Core(info.Env()).TscKhz();
  return khz > 0 ? Napi::Number::New(info.Env(), khz) : info.Env().Undefined();
}

Napi::Value VmWrap::CreateIrq(const Napi::CallbackInfo& info) {
  std::shared_ptr<IrqLine> line;
  const int rc = Core(info.Env()).CreateIrqLine(ToUint<uint32_t>(info[0], "gsi"), &line);
  ThrowIfFailed(info.Env(), rc, "irq");
  std::weak_ptr<IrqLine> weak = line;
  irqs_.push_back(std::move(line));
  return NewWrapped(info.Env(), AddonData::Of(info.Env()).irq, &weak);
}

Napi::Value VmWrap::MapMemory(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(), Core(info.Env()).MapMemory());
  return info.Env().Undefined();
}

Napi::Value VmWrap::AttachWindow(const Napi::CallbackInfo& info) {
  auto window = FileWindowWrap::ToWindow(info[1], "window");
  const int rc = Core(info.Env()).AttachWindow(ToU64(info[0], "gpa"), std::move(window));
  ThrowIfFailed(info.Env(), rc, "ioctl(KVM_SET_USER_MEMORY_REGION)");
  return info.Env().Undefined();
}

Napi::Value VmWrap::DetachWindow(const Napi::CallbackInfo& info) {
  Core(info.Env()).DetachWindow(*FileWindowWrap::ToWindow(info[0], "window"));
  return info.Env().Undefined();
}

Napi::Value VmWrap::AttachKick(const Napi::CallbackInfo& info) {
  const auto kick = EventFdWrap::ToEvent(info[1], "kick");
  const int rc = Core(info.Env()).AttachKick(ToU64(info[0], "gpa"), *kick);
  ThrowIfFailed(info.Env(), rc, "ioctl(KVM_IOEVENTFD)");
  return info.Env().Undefined();
}

Napi::Value VmWrap::DetachKick(const Napi::CallbackInfo& info) {
  const auto kick = EventFdWrap::ToEvent(info[1], "kick");
  const int rc = Core(info.Env()).DetachKick(ToU64(info[0], "gpa"), *kick);
  ThrowIfFailed(info.Env(), rc, "ioctl(KVM_IOEVENTFD)");
  return info.Env().Undefined();
}

Napi::Value VmWrap::ClaimKick(const Napi::CallbackInfo& info) {
  const uint64_t gpa = ToU64(info[0], "gpa");
  auto kick = EventFdWrap::ToEvent(info[1], "kick");
  const auto& requests = IoDomainsWrap::Unwrap(ToObject(info[2], "domains"))->requests();
  const int rc = Core(info.Env()).AddNative(Space::kMmio, gpa, kKickBytes, requests);
  ThrowIfFailed(info.Env(), rc, "claim");
  requests->SetKick(std::move(kick));
  return info.Env().Undefined();
}

Napi::Value VmWrap::ReleaseKick(const Napi::CallbackInfo& info) {
  Core(info.Env()).bus().Release(Space::kMmio, ToU64(info[0], "gpa"));
  return info.Env().Undefined();
}

Napi::Value VmWrap::CreateMsi(const Napi::CallbackInfo& info) {
  const auto event = EventFdWrap::ToEvent(info[0], "irq");
  Core(info.Env());
  const int gsi = msis_->Add(event);
  ThrowIfFailed(info.Env(), gsi, "msi");
  MsiWrap::Added added{msis_, static_cast<uint32_t>(gsi)};
  return NewWrapped(info.Env(), AddonData::Of(info.Env()).msi, &added);
}

Napi::Value VmWrap::CreateUart(const Napi::CallbackInfo& info) {
  constexpr uint64_t kUartPorts = 8;
  const Napi::Env env = info.Env();
  const Napi::Object options = ToObject(info[0], "options");
  Irq irq;
  const int rc = Core(env).CreateIrq(ToUint<uint32_t>(options.Get("gsi"), "gsi"), &irq);
  ThrowIfFailed(env, rc, "ioctl(KVM_IRQFD)");
  const uint64_t base = ToU64(options.Get("base"), "base");
  const auto port =
      options.Has("line") ? LineUart(std::move(irq), options) : OutputUart(std::move(irq), options);
  ThrowIfFailed(env, Core(env).AddNative(Space::kPort, base, kUartPorts, port), "claim");
  std::weak_ptr<SerialPort> weak = port;
  return NewWrapped(env, AddonData::Of(env).uart, &weak);
}

/// Input comes by JS.
std::shared_ptr<SerialPort> VmWrap::OutputUart(Irq irq, Napi::Object options) {
  auto on_room = std::make_shared<Napi::FunctionReference>(
      Napi::Persistent(ToFunction(options.Get("onRoom"), "onRoom")));
  // A FunctionReference must end on the JS thread, so the thread that calls has a weak one only.
  auto room = [calls = JsQueue::Of(options.Env()).calls(), weak = std::weak_ptr(on_room)] {
    calls->Post([weak](Napi::Env) {
      if (const auto callback = weak.lock()) callback->Call({});
    });
  };
  callbacks_.push_back(std::move(on_room));
  auto output = std::make_shared<Output>("serial", ToFd(options.Get("fd"), "fd"));
  return std::make_shared<SerialPort>(std::move(irq), std::move(output), std::move(room));
}

/// The line has both directions, and JS neither.
std::shared_ptr<SerialPort> VmWrap::LineUart(Irq irq, Napi::Object options) {
  const auto line = SerialLineWrap::Unwrap(ToObject(options.Get("line"), "line"))->core();
  auto port = std::make_shared<SerialPort>(std::move(irq), line, [line] { line->Resume(); });
  line->Attach([weak = std::weak_ptr(port)](const uint8_t* bytes, size_t count) {
    const auto alive = weak.lock();
    return alive ? alive->chip().Input(bytes, count) : 0;
  });
  return port;
}

Napi::Value VmWrap::AddPmTimer(const Napi::CallbackInfo& info) {
  constexpr uint64_t kTimerPorts = 4;
  const int rc = Core(info.Env())
                     .AddNative(Space::kPort, ToU64(info[0], "port"), kTimerPorts,
                                std::make_shared<PmTimer>());
  ThrowIfFailed(info.Env(), rc, "claim");
  return info.Env().Undefined();
}

Napi::Value VmWrap::AddPciAddress(const Napi::CallbackInfo& info) {
  constexpr uint64_t kAddressPorts = 4;
  const auto address = std::make_shared<PciAddress>();
  const int rc =
      Core(info.Env()).AddNative(Space::kPort, ToU64(info[0], "port"), kAddressPorts, address);
  ThrowIfFailed(info.Env(), rc, "claim");
  const auto value = [address](const Napi::CallbackInfo& call) {
    return Napi::Number::New(call.Env(), address->value());
  };
  return Napi::Function::New(info.Env(), value);
}

Napi::Value VmWrap::AddSink(const Napi::CallbackInfo& info) {
  const int rc = Core(info.Env())
                     .AddNative(Space::kPort, ToU64(info[0], "port"), ToU64(info[1], "count"),
                                std::make_shared<Sink>());
  ThrowIfFailed(info.Env(), rc, "claim");
  return info.Env().Undefined();
}

Napi::Value VmWrap::AddDebugPort(const Napi::CallbackInfo& info) {
  const auto output = BytePortWrap::Unwrap(ToObject(info[1], "output"))->output();
  if (output == nullptr) throw SysError(info.Env(), {EBADF, "debugPort"});
  const int rc =
      Core(info.Env())
          .AddNative(Space::kPort, ToU64(info[0], "port"), 1, std::make_shared<DebugPort>(output));
  ThrowIfFailed(info.Env(), rc, "claim");
  return info.Env().Undefined();
}

Napi::Value VmWrap::Boot(const Napi::CallbackInfo& info) {
  Core(info.Env());
  auto plan = std::make_shared<const BootPlan>(ToBootPlan(info[0]));
  if (std::exchange(boot_called_, true)) throw SysError(info.Env(), {EALREADY, "boot"});
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [core = core_, plan] {
    return core->Boot(*plan);
  });
}

Napi::Value VmWrap::Run(const Napi::CallbackInfo& info) {
  Vm& core = Core(info.Env());
  if (!core.booted()) throw SysError(info.Env(), {EINVAL, "run before boot"});
  if (!std::exchange(running_, true)) {
    Ref();
    JsQueue::Of(info.Env()).Hold(info.Env());
    ThrowIfFailed(info.Env(), core.Run());
  }
  return info.Env().Undefined();
}

Napi::Value VmWrap::Pause(const Napi::CallbackInfo& info) {
  Vm& core = Core(info.Env());
  pausing_.emplace_back(info.Env());
  const Napi::Promise paused = pausing_.back().Promise();
  core.Pause();
  if (!running_ || core.AllParked()) Settle(info.Env(), &pausing_);
  return paused;
}

Napi::Value VmWrap::Resume(const Napi::CallbackInfo& info) {
  Core(info.Env()).Resume();
  return info.Env().Undefined();
}

Napi::Value VmWrap::Nmi(const Napi::CallbackInfo& info) {
  Core(info.Env()).Nmi();
  return info.Env().Undefined();
}

Napi::Value VmWrap::MakeVcpus(const Napi::CallbackInfo& info) {
  Vm& core = Core(info.Env());
  if (!core.booted()) throw SysError(info.Env(), {EINVAL, "vCPUs before boot"});
  const auto first = ToUint<uint32_t>(info[0], "first");
  const Napi::Array list = ToArray(info[1], "vcpus");
  auto vcpus = std::make_shared<std::vector<NewVcpu>>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::HandleScope scope(info.Env());
    const Napi::Object from = ToObject(list.Get(i), "vcpus");
    vcpus->push_back({ToVcpuOptions(from), ToCpuid(from.Get("cpuid"))});
  }
  ThrowIfFailed(info.Env(), core.AddVcpus(first, *vcpus), "vcpus");
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [core = core_, first, vcpus] {
    return core->MakeVcpus(first, *vcpus);
  });
}

Napi::Value VmWrap::WhenReset(const Napi::CallbackInfo& info) {
  const size_t count = Core(info.Env()).vcpu_count();
  const auto first = ToUint<uint32_t>(info[0], "first");
  const auto end = std::min<size_t>(count, ToUint<uint32_t>(info[1], "end"));
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [core = core_, first, end] {
    core->AwaitReset(first, end);
    return Status{};
  });
}

Napi::Value VmWrap::Plug(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(), Core(info.Env()).Plug(ToUint<uint32_t>(info[0], "vcpu")));
  return info.Env().Undefined();
}

Napi::Value VmWrap::Unplug(const Napi::CallbackInfo& info) {
  ThrowIfFailed(info.Env(), Core(info.Env()).Unplug(ToUint<uint32_t>(info[0], "vcpu")));
  return info.Env().Undefined();
}

Napi::Value VmWrap::Stop(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  ending_.emplace_back(env);
  const Napi::Promise ended = ending_.back().Promise();
  if (ended_) {
    Settle(env, &ending_);
  } else if (!std::exchange(stopping_, true)) {
    Ref();  // until it has ended, whatever JS forgets meanwhile
    if (core_->Stop()) Dismantle(env);
  }
  return ended;
}

/// Node makes up to a thousand calls of a thread-safe function, each the cause of the next, before
/// it looks at timers and sockets again. So once a turn's worth is served, the rest waits a turn.
void VmWrap::OnWake(Napi::Env env) {
  if (served_ < std::chrono::nanoseconds(ExitMailbox::kServeNsMax)) return Serve(env);
  if (next_turn_.IsEmpty()) {  // one for all turns, for a guest decides how many there are
    const auto serve = [link = link_](const Napi::CallbackInfo& info) {
      if (link->wrap != nullptr) link->wrap->Serve(info.Env());
    };
    next_turn_ = Napi::Persistent(Napi::Function::New(env, serve));
  }
  served_ = {};
  AddonData::Of(env).set_immediate.Call({next_turn_.Value()});
}

void VmWrap::Serve(Napi::Env env) {
  if (core_ == nullptr) return;
  const std::shared_ptr<Vm> core = core_;  // an answer or an event may end the Vm
  const auto start = std::chrono::steady_clock::now();
  core->Serve([&](size_t vcpu, const Access& access) { return Answer(env, vcpu, access); });
  served_ += std::chrono::steady_clock::now() - start;
  for (const VmEvent& event : core->TakeEvents()) OnEvent(env, event);
}

/// A handler that throws is a bug of ours, and must not stop the guest: all ones, and an event.
std::optional<uint32_t> VmWrap::Answer(Napi::Env env, size_t vcpu, const Access& access) {
  const auto found = handlers_.find(access.handler);
  if (found == handlers_.end()) return kAllOnes;  // released while the access waited
  const Handler& handler = found->second;
  const Napi::HandleScope scope(env);
  const auto number = [env](uint32_t value) { return Napi::Number::New(env, value); };
  try {
    const napi_value self = handler.object.Value();
    const Napi::Value answer =
        access.is_write
            ? handler.write.Call(
                  self, {number(access.offset), number(access.size_bytes), number(access.value)})
            : handler.read.Call(self, {number(access.offset), number(access.size_bytes)});
    return late_answers_->Take(env, vcpu, answer);
  } catch (const Napi::Error& error) {
    Emit(env, "handler-error", {VmEvent::Kind::kVcpuFailure, 0, error.Message()});
    return kAllOnes;
  }
}

void VmWrap::OnEvent(Napi::Env env, const VmEvent& event) {
  switch (event.kind) {
    case VmEvent::Kind::kTripleFault:
      return Emit(env, "triple-fault", event);
    case VmEvent::Kind::kVcpuFailure:
      return Emit(env, "vcpu-error", event);
    case VmEvent::Kind::kAllParked:
      // It may be of a pause that a resume has ended since.
      if (core_->AllParked()) Settle(env, &pausing_);
      return;
    case VmEvent::Kind::kAllEnded:
      return Dismantle(env);
  }
}

void VmWrap::Emit(Napi::Env env, const char* type, const VmEvent& event) {
  if (on_event_.IsEmpty()) return;  // it is over
  const Napi::HandleScope scope(env);
  Napi::Object object = Napi::Object::New(env);
  object.Set("type", type);
  object.Set("vcpu", Napi::Number::New(env, static_cast<double>(event.vcpu)));
  object.Set("message", event.message);
  try {
    on_event_.Call({object});
  } catch (const Napi::Error& error) {
    // Thrown through the mailbox, it would leave the vCPU waiting; so it is reported from here.
    napi_fatal_exception(env, error.Value());
  }
}

void VmWrap::Dismantle(Napi::Env env) {
  link_->wrap = nullptr;
  next_turn_.Reset();
  on_event_.Reset();  // it may know this, which could then never be collected
  callbacks_.clear();
  handlers_.clear();
  late_answers_ = nullptr;
  irqs_.clear();
  msis_ = nullptr;
  passthrough_ = nullptr;
  Settle(env, &pausing_);
  JsQueue& queue = JsQueue::Of(env);
  const Napi::Promise done =
      queue.RunOnWorker(env, [core = std::exchange(core_, nullptr)]() mutable {
        core.reset();
        return Status{};
      });
  const auto end = [this](const Napi::CallbackInfo& info) {
    ended_ = true;
    Settle(info.Env(), &ending_);
    Unref();
  };
  done.Then(Napi::Function::New(env, end));
  if (std::exchange(running_, false)) {
    queue.Drop(env);
    Unref();
  }
}

void VmWrap::Settle(Napi::Env env, std::vector<Napi::Promise::Deferred>* waiting) {
  for (const Napi::Promise::Deferred& deferred : std::exchange(*waiting, {}))
    deferred.Resolve(env.Undefined());
}

}  // namespace vmm
