#include "byte_port_wrap.h"

#include <utility>
#include <vector>

#include "../serial/output.h"
#include "../serial/window_size.h"
#include "args.h"
#include "js_queue.h"
#include "serial_line_wrap.h"

namespace vmm {

Napi::Function BytePortWrap::Define(Napi::Env env) {
  return DefineClass(
      env, "BytePort",
      {InstanceMethod<&BytePortWrap::Write>("write"), InstanceMethod<&BytePortWrap::Read>("read"),
       InstanceMethod<&BytePortWrap::Flush>("flush"),
       InstanceMethod<&BytePortWrap::WindowSize>("windowSize"),
       InstanceMethod<&BytePortWrap::Close>("close")});
}

BytePortWrap::BytePortWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const Napi::Object options = ToObject(info[0], "options");
  if (options.Has("line")) {
    Plug(info.Env(), options.Get("line"), ToFunction(options.Get("onInput"), "onInput"));
    return;
  }
  fd_ = ToFd(options.Get("fd"), "fd");
  output_ = std::make_shared<Output>(options.Get("name").ToString().Utf8Value(), fd_);
}

void BytePortWrap::Plug(Napi::Env env, Napi::Value line, Napi::Function on_input) {
  on_input_ = std::make_shared<Napi::FunctionReference>(Napi::Persistent(on_input));
  input_ = std::make_shared<InputBuffer>(
      [calls = JsQueue::Of(env).calls(), weak = std::weak_ptr(on_input_)] {
        calls->Post([weak](Napi::Env) {
          if (const auto callback = weak.lock()) callback->Call({});
        });
      });
  line_ = SerialLineWrap::Unwrap(ToObject(line, "line"))->core();
  output_ = line_;
  line_->Attach(
      [input = input_](const uint8_t* bytes, size_t count) { return input->Put(bytes, count); });
}

void BytePortWrap::Detach() {
  if (line_) line_->Attach(nullptr);
  line_ = nullptr;
  input_ = nullptr;
  on_input_ = nullptr;
}

Napi::Value BytePortWrap::Write(const Napi::CallbackInfo& info) {
  const Napi::Uint8Array bytes = ToBytes(info[0], "bytes");
  if (output_) output_->Put(bytes.Data(), bytes.ByteLength());
  return info.Env().Undefined();
}

Napi::Value BytePortWrap::Read(const Napi::CallbackInfo& info) {
  std::vector<uint8_t> bytes;
  if (input_ && input_->Take(&bytes)) line_->Resume();
  return Napi::Buffer<uint8_t>::Copy(info.Env(), bytes.data(), bytes.size());
}

Napi::Value BytePortWrap::Flush(const Napi::CallbackInfo& info) {
  const auto timeout_ms = ToUint<uint32_t>(info[0], "timeoutMs");
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [output = output_, timeout_ms] {
    if (output) output->Flush(timeout_ms);
    return Status{};
  });
}

Napi::Value BytePortWrap::WindowSize(const Napi::CallbackInfo& info) {
  const winsize size = WindowSizeOf(fd_);
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("cols", Napi::Number::New(info.Env(), size.ws_col));
  object.Set("rows", Napi::Number::New(info.Env(), size.ws_row));
  return object;
}

/// The end of an Output waits for its thread.
Napi::Value BytePortWrap::Close(const Napi::CallbackInfo& info) {
  Detach();
  fd_ = -1;
  return JsQueue::Of(info.Env())
      .RunOnWorker(info.Env(), [output = std::exchange(output_, nullptr)] { return Status{}; });
}

}  // namespace vmm
