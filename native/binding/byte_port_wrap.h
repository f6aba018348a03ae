#pragma once
#include <napi.h>

#include <memory>

#include "../serial/byte_sink.h"
#include "../serial/input_buffer.h"
#include "../serial/line.h"

namespace vmm {

/// `class BytePort` of src/native.ts.
class BytePortWrap : public Napi::ObjectWrap<BytePortWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit BytePortWrap(const Napi::CallbackInfo& info);
  ~BytePortWrap() override { Detach(); }

  /// Null once it is closed.
  const std::shared_ptr<ByteSink>& output() const { return output_; }

 private:
  Napi::Value Write(const Napi::CallbackInfo& info);
  Napi::Value Read(const Napi::CallbackInfo& info);
  Napi::Value Flush(const Napi::CallbackInfo& info);
  Napi::Value WindowSize(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  void Plug(Napi::Env env, Napi::Value line, Napi::Function on_input);
  void Detach();

  std::shared_ptr<ByteSink> output_;
  int fd_ = -1;
  // Of a line only.
  std::shared_ptr<Line> line_;
  std::shared_ptr<InputBuffer> input_;
  // The thread that calls it has a weak one, for a FunctionReference must end on the JS thread.
  std::shared_ptr<Napi::FunctionReference> on_input_;
};

}  // namespace vmm
