#include "serial_line_wrap.h"

#include "sys_error.h"

namespace vmm {

Napi::Function SerialLineWrap::Define(Napi::Env env) {
  return DefineClass(env, "SerialLine",
                     {InstanceAccessor<&SerialLineWrap::Path>("path"),
                      InstanceMethod<&SerialLineWrap::Close>("close")});
}

SerialLineWrap::SerialLineWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const std::string name = info[0].ToString().Utf8Value();
  const Status status = info[1].IsUndefined()
                            ? Line::OfPty(name, &core_)
                            : Line::OfSocket(name, info[1].ToString().Utf8Value(), &core_);
  ThrowIfFailed(info.Env(), status);
}

Napi::Value SerialLineWrap::Path(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), core_->path());
}

Napi::Value SerialLineWrap::Close(const Napi::CallbackInfo& info) {
  core_->Close();
  return info.Env().Undefined();
}

}  // namespace vmm
