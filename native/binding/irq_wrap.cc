#include "irq_wrap.h"

#include <utility>

#include "args.h"
#include "js_queue.h"

namespace vmm {

Napi::Function IrqLineWrap::Define(Napi::Env env) {
  return DefineClass(env, "IrqLine", {InstanceMethod<&IrqLineWrap::Set>("set")});
}

IrqLineWrap::IrqLineWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "IrqLine is made by Vm.irq");
  line_ = std::move(*info[0].As<Napi::External<std::weak_ptr<IrqLine>>>().Data());
}

Napi::Value IrqLineWrap::Set(const Napi::CallbackInfo& info) {
  if (const auto line = line_.lock()) line->Set(info[0].ToBoolean());
  return info.Env().Undefined();
}

Napi::Function UartWrap::Define(Napi::Env env) {
  return DefineClass(
      env, "Uart16550",
      {InstanceMethod<&UartWrap::Input>("input"), InstanceMethod<&UartWrap::Flush>("flush")});
}

UartWrap::UartWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  if (!info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "Uart16550 is made by Vm.uart");
  port_ = std::move(*info[0].As<Napi::External<std::weak_ptr<SerialPort>>>().Data());
}

Napi::Value UartWrap::Input(const Napi::CallbackInfo& info) {
  const Napi::Uint8Array bytes = ToBytes(info[0], "bytes");
  const auto port = port_.lock();
  const size_t taken = port ? port->chip().Input(bytes.Data(), bytes.ByteLength()) : 0;
  return Napi::Number::New(info.Env(), static_cast<double>(taken));
}

Napi::Value UartWrap::Flush(const Napi::CallbackInfo& info) {
  const auto timeout_ms = ToUint<uint32_t>(info[0], "timeoutMs");
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [port = port_, timeout_ms] {
    if (const auto alive = port.lock()) alive->output().Flush(timeout_ms);
    return Status{};
  });
}

}  // namespace vmm
