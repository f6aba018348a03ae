#pragma once
#include <napi.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "../kvm/vm.h"
#include "../serial/serial_port.h"
#include "late_answers.h"

namespace vmm {

/// `class Vm` of src/native.ts. While vCPU threads exist it keeps itself and the process alive.
class VmWrap : public Napi::ObjectWrap<VmWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit VmWrap(const Napi::CallbackInfo& info);
  ~VmWrap() override;

  /// Null once the Vm has stopped.
  const std::shared_ptr<Passthrough>& passthrough() const { return passthrough_; }

 private:
  /// A claimed range's two functions, and the object that they are methods of.
  struct Handler {
    Napi::ObjectReference object;
    Napi::FunctionReference read, write;
    Space space;
    uint64_t base;
  };
  /// What wakes of vCPU threads lead to; `wrap` is null once the Vm has ended.
  struct Link {
    VmWrap* wrap;
  };

  Napi::Value Claim(const Napi::CallbackInfo& info);
  Napi::Value Release(const Napi::CallbackInfo& info);
  Napi::Value MapMemory(const Napi::CallbackInfo& info);
  Napi::Value TscKhz(const Napi::CallbackInfo& info);
  Napi::Value CreateIrq(const Napi::CallbackInfo& info);
  Napi::Value AttachWindow(const Napi::CallbackInfo& info);
  Napi::Value DetachWindow(const Napi::CallbackInfo& info);
  Napi::Value AttachKick(const Napi::CallbackInfo& info);
  Napi::Value DetachKick(const Napi::CallbackInfo& info);
  Napi::Value ClaimKick(const Napi::CallbackInfo& info);
  Napi::Value ReleaseKick(const Napi::CallbackInfo& info);
  Napi::Value CreateMsi(const Napi::CallbackInfo& info);
  Napi::Value CreateUart(const Napi::CallbackInfo& info);
  Napi::Value AddPmTimer(const Napi::CallbackInfo& info);
  Napi::Value AddPciAddress(const Napi::CallbackInfo& info);
  Napi::Value AddSink(const Napi::CallbackInfo& info);
  Napi::Value AddDebugPort(const Napi::CallbackInfo& info);
  Napi::Value Boot(const Napi::CallbackInfo& info);
  Napi::Value Run(const Napi::CallbackInfo& info);
  Napi::Value Pause(const Napi::CallbackInfo& info);
  Napi::Value Resume(const Napi::CallbackInfo& info);
  Napi::Value Nmi(const Napi::CallbackInfo& info);
  Napi::Value MakeVcpus(const Napi::CallbackInfo& info);
  Napi::Value WhenReset(const Napi::CallbackInfo& info);
  Napi::Value Plug(const Napi::CallbackInfo& info);
  Napi::Value Unplug(const Napi::CallbackInfo& info);
  Napi::Value Stop(const Napi::CallbackInfo& info);

  static std::shared_ptr<SerialPort> LineUart(Irq irq, Napi::Object options);
  std::shared_ptr<SerialPort> OutputUart(Irq irq, Napi::Object options);
  /// The core; throws ESHUTDOWN once it has stopped.
  Vm& Core(Napi::Env env);
  void OnWake(Napi::Env env);
  void Serve(Napi::Env env);
  /// Nothing if a promise settles it later.
  std::optional<uint32_t> Answer(Napi::Env env, size_t vcpu, const Access& access);
  void OnEvent(Napi::Env env, const VmEvent& event);
  void Emit(Napi::Env env, const char* type, const VmEvent& event);
  /// Gives the core, with its threads and mappings, to a worker to take apart.
  void Dismantle(Napi::Env env);
  void Settle(Napi::Env env, std::vector<Napi::Promise::Deferred>* waiting);

  std::shared_ptr<Vm> core_;
  std::shared_ptr<Link> link_;
  Napi::FunctionReference on_event_;
  Napi::FunctionReference next_turn_;
  std::vector<std::shared_ptr<Napi::FunctionReference>> callbacks_;  // of native devices
  std::vector<std::shared_ptr<IrqLine>> irqs_;                       // of the objects that JS has
  std::shared_ptr<MsiRoutes> msis_;  // weak in the Msi objects that JS has
  std::shared_ptr<Passthrough> passthrough_;
  std::unordered_map<uint32_t, Handler> handlers_;
  std::unique_ptr<LateAnswers> late_answers_;  // null once the Vm has ended
  uint32_t next_handler_ = 0;
  std::chrono::steady_clock::duration served_{};  // since JS last had a turn of its own
  bool boot_called_ = false;
  bool running_ = false;
  bool stopping_ = false;
  bool ended_ = false;
  std::vector<Napi::Promise::Deferred> pausing_;
  std::vector<Napi::Promise::Deferred> ending_;
};

}  // namespace vmm
