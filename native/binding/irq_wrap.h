#pragma once
#include <napi.h>

#include <memory>

#include "../kvm/irq.h"
#include "../serial/serial_port.h"

namespace vmm {

/// `class Irq` of src/native.ts, made by `Vm.irq`. Does nothing once the Vm has gone: its fd must
/// not stay until the garbage is collected.
class IrqWrap : public Napi::ObjectWrap<IrqWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit IrqWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value Trigger(const Napi::CallbackInfo& info);
  std::weak_ptr<Irq> irq_;
};

/// `class Uart16550` of src/native.ts, made by `Vm.uart`. Does nothing once the Vm has gone.
class UartWrap : public Napi::ObjectWrap<UartWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit UartWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value Input(const Napi::CallbackInfo& info);
  Napi::Value Flush(const Napi::CallbackInfo& info);
  std::weak_ptr<SerialPort> port_;
};

}  // namespace vmm
