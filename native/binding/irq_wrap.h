#pragma once
#include <napi.h>

#include <memory>

#include "../kvm/irq.h"
#include "../serial/serial_port.h"

namespace vmm {

/// `class IrqLine` of src/native.ts, made by `Vm.irq`. Does nothing once the Vm has gone: its fd
/// must not stay until the garbage is collected.
class IrqLineWrap : public Napi::ObjectWrap<IrqLineWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit IrqLineWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value Set(const Napi::CallbackInfo& info);
  std::weak_ptr<IrqLine> line_;
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
