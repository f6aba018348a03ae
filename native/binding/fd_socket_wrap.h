#pragma once
#include <napi.h>

#include <memory>

#include "../sys/fd_socket.h"
#include "loop_poll.h"

namespace vmm {

/// `class FdListener` of src/native.ts. JS cannot collect it before it is closed.
class FdListenerWrap : public Napi::ObjectWrap<FdListenerWrap>, LoopPoll::Watcher {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit FdListenerWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value Descriptor(const Napi::CallbackInfo& info);
  Napi::Value Pause(const Napi::CallbackInfo& info);
  Napi::Value Resume(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);
  void OnReady(Napi::Env env, int events) override;
  void OnClosed(Napi::Env env, bool environment_ends) override;

  Fd listener_;
  LoopPoll* poll_ = nullptr;
  Napi::FunctionReference on_connection_, on_stall_;
};

/// `class FdSocket` of src/native.ts. JS cannot collect it before it is closed.
class FdSocketWrap : public Napi::ObjectWrap<FdSocketWrap>, LoopPoll::Watcher {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit FdSocketWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value Write(const Napi::CallbackInfo& info);
  Napi::Value SendFds(const Napi::CallbackInfo& info);
  Napi::Value End(const Napi::CallbackInfo& info);
  Napi::Value Pause(const Napi::CallbackInfo& info);
  Napi::Value Resume(const Napi::CallbackInfo& info);
  Napi::Value Destroy(const Napi::CallbackInfo& info);
  void OnReady(Napi::Env env, int events) override;
  void OnClosed(Napi::Env env, bool environment_ends) override;
  void Receive(Napi::Env env);
  void Flush(Napi::Env env);
  /// `rc` of the last call on the socket: a failure ends it, for whoever was there is gone.
  void Update(int rc);
  void Close();

  std::unique_ptr<FdSocket> socket_;  // null once it is closed
  LoopPoll* poll_ = nullptr;
  bool paused_ = false;
  bool watches_read_ = true;
  Napi::Reference<Napi::Uint8Array> into_;
  Napi::FunctionReference on_data_, on_end_, on_drain_, on_close_;
};

/// `Native.unixStreams` of src/native.ts.
Napi::Object DefineUnixStreams(Napi::Env env);

}  // namespace vmm
