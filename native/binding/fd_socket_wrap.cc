#include "fd_socket_wrap.h"

#include <errno.h>

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "../sys/unix_listener.h"
#include "../sys/unix_stream.h"
#include "args.h"
#include "sys_error.h"

namespace vmm {
namespace {

/// Calls into JS from the loop. What it throws is nobody's to catch, as from a callback of Node's.
void Call(Napi::Env env, const Napi::FunctionReference& function,
          std::initializer_list<napi_value> args) {
  try {
    function.MakeCallback(env.Global(), args);
  } catch (const Napi::Error& error) {
    napi_fatal_exception(env, error.Value());
  }
}

Napi::FunctionReference Handler(Napi::Object options, const char* name) {
  return Napi::Persistent(ToFunction(options.Get(name), name));
}

Status Listen(Napi::Object options, Fd* listener) {
  const std::string path = options.Get("path").ToString().Utf8Value();
  const bool replace = options.Get("replaceStale").ToBoolean().Value();
  return replace ? ListenUnixAnew(path, listener) : ListenUnix(path, listener);
}

}  // namespace

Napi::Function FdListenerWrap::Define(Napi::Env env) {
  return DefineClass(env, "FdListener",
                     {InstanceAccessor<&FdListenerWrap::Descriptor>("fd"),
                      InstanceMethod<&FdListenerWrap::Pause>("pause"),
                      InstanceMethod<&FdListenerWrap::Resume>("resume"),
                      InstanceMethod<&FdListenerWrap::Close>("close")});
}

FdListenerWrap::FdListenerWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const Napi::Env env = info.Env();
  const Napi::Object options = ToObject(info[0], "options");
  on_connection_ = Handler(options, "onConnection");
  on_stall_ = Handler(options, "onStall");
  const Napi::Value fd = options.Get("fd");
  ThrowIfFailed(env, fd.IsUndefined() ? Listen(options, &listener_)
                                      : AdoptListener(ToFd(fd, "fd"), &listener_));
  int error = 0;
  poll_ = LoopPoll::Open(env, listener_.get(), this, &error);
  if (poll_ == nullptr) throw SysError(env, {error, "epoll_ctl"});
  poll_->Watch(UV_READABLE);
  Ref();
}

Napi::Value FdListenerWrap::Descriptor(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), listener_.get());
}

Napi::Value FdListenerWrap::Pause(const Napi::CallbackInfo& info) {
  if (listener_.ok()) poll_->Watch(0);
  return info.Env().Undefined();
}

Napi::Value FdListenerWrap::Resume(const Napi::CallbackInfo& info) {
  if (listener_.ok()) poll_->Watch(UV_READABLE);
  return info.Env().Undefined();
}

Napi::Value FdListenerWrap::Close(const Napi::CallbackInfo& info) {
  if (listener_.ok()) poll_->Close();
  listener_ = Fd();
  return info.Env().Undefined();
}

void FdListenerWrap::OnReady(Napi::Env env, int) {
  Fd client;
  const int rc = AcceptClient(listener_, &client);
  if (rc == 0) return Call(env, on_connection_, {Napi::Number::New(env, client.Release())});
  if (rc == -EAGAIN) return;
  poll_->Watch(0);
  Call(env, on_stall_, {});
}

/// The callbacks know whoever has this object: held on to, they would keep it for ever.
void FdListenerWrap::OnClosed(Napi::Env, bool) {
  listener_ = Fd();
  on_connection_.Reset();
  on_stall_.Reset();
  Unref();
}

Napi::Function FdSocketWrap::Define(Napi::Env env) {
  return DefineClass(
      env, "FdSocket",
      {InstanceMethod<&FdSocketWrap::Write>("write"),
       InstanceMethod<&FdSocketWrap::SendFds>("sendFds"), InstanceMethod<&FdSocketWrap::End>("end"),
       InstanceMethod<&FdSocketWrap::Pause>("pause"),
       InstanceMethod<&FdSocketWrap::Resume>("resume"),
       InstanceMethod<&FdSocketWrap::Destroy>("destroy")});
}

FdSocketWrap::FdSocketWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const Napi::Env env = info.Env();
  const Napi::Object options = ToObject(info[1], "options");
  into_ = Napi::Persistent(ToBytes(options.Get("into"), "into"));
  on_data_ = Handler(options, "onData");
  on_end_ = Handler(options, "onEnd");
  on_drain_ = Handler(options, "onDrain");
  on_close_ = Handler(options, "onClose");
  socket_ = std::make_unique<FdSocket>(Fd(ToFd(info[0], "fd")));
  int error = 0;
  poll_ = LoopPoll::Open(env, socket_->fd(), this, &error);
  if (poll_ == nullptr) throw SysError(env, {error, "epoll_ctl"});
  poll_->Watch(UV_READABLE);
  Ref();
}

Napi::Value FdSocketWrap::Write(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!socket_) return Napi::Boolean::New(env, true);
  if (info[0].IsString()) {
    // Latin-1, as the API's replies are: a byte a character.
    size_t length = 0;
    napi_get_value_string_latin1(env, info[0], nullptr, 0, &length);
    std::string text(length + 1, '\0');
    napi_get_value_string_latin1(env, info[0], text.data(), text.size(), &length);
    Update(socket_->Send(text.data(), length));
  } else {
    const Napi::Uint8Array bytes = ToBytes(info[0], "bytes");
    Update(socket_->Send(bytes.Data(), bytes.ByteLength()));
  }
  return Napi::Boolean::New(env, !socket_ || socket_->flushed());
}

Napi::Value FdSocketWrap::SendFds(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Uint8Array bytes = ToBytes(info[0], "bytes");
  const Napi::Array from = ToArray(info[1], "fds");
  std::vector<int> fds;
  for (uint32_t i = 0; i < from.Length(); ++i) fds.push_back(ToFd(from.Get(i), "fds"));
  if (!socket_) return Napi::Boolean::New(env, false);
  return Napi::Boolean::New(env, socket_->SendWithFds(bytes.Data(), bytes.ByteLength(), fds) == 0);
}

Napi::Value FdSocketWrap::End(const Napi::CallbackInfo& info) {
  if (socket_) Update(socket_->End());
  return info.Env().Undefined();
}

/// Takes effect when bytes come: most pauses are over by then, and cost no system call.
Napi::Value FdSocketWrap::Pause(const Napi::CallbackInfo& info) {
  paused_ = true;
  return info.Env().Undefined();
}

Napi::Value FdSocketWrap::Resume(const Napi::CallbackInfo& info) {
  paused_ = false;
  watches_read_ = true;
  if (socket_) Update(0);
  return info.Env().Undefined();
}

Napi::Value FdSocketWrap::Destroy(const Napi::CallbackInfo& info) {
  Close();
  return info.Env().Undefined();
}

void FdSocketWrap::OnReady(Napi::Env env, int events) {
  if ((events & UV_WRITABLE) != 0 && !socket_->flushed()) Flush(env);
  if (socket_ && (events & UV_READABLE) != 0) {
    watches_read_ = !paused_;
    if (!paused_) Receive(env);
  }
  if (socket_) Update(0);
}

void FdSocketWrap::Flush(Napi::Env env) {
  Update(socket_->Flush());
  if (socket_ && socket_->flushed()) Call(env, on_drain_, {});
}

void FdSocketWrap::Receive(Napi::Env env) {
  Napi::Uint8Array into = into_.Value();
  FdSocket::Received received = socket_->Receive(into.Data(), into.ByteLength());
  if (received.size_bytes == 0) return Call(env, on_end_, {});
  if (received.size_bytes == -EAGAIN) return;
  if (received.size_bytes < 0) return Close();

  const auto size_bytes = static_cast<double>(received.size_bytes);
  const Napi::Value size = Napi::Number::New(env, size_bytes);
  if (received.fds_lost) return Call(env, on_data_, {size, env.Null()});
  if (received.fds.empty()) return Call(env, on_data_, {size});
  const Napi::Array fds = Napi::Array::New(env);
  for (Fd& fd : received.fds) fds.Set(fds.Length(), fd.Release());
  Call(env, on_data_, {size, fds});
}

void FdSocketWrap::Update(int rc) {
  if (rc < 0 || socket_->finished()) return Close();
  const int readable = watches_read_ && !socket_->receive_ended() ? UV_READABLE : 0;
  poll_->Watch(readable | (socket_->flushed() ? 0 : UV_WRITABLE));
}

void FdSocketWrap::Close() {
  if (!socket_) return;
  poll_->Close();
  socket_ = nullptr;
}

void FdSocketWrap::OnClosed(Napi::Env env, bool environment_ends) {
  socket_ = nullptr;
  if (!environment_ends) Call(env, on_close_, {});
  // What the handlers know holds us, and they would be held by us: nobody could be collected.
  for (Napi::FunctionReference* handler : {&on_data_, &on_end_, &on_drain_, &on_close_})
    handler->Reset();
  into_.Reset();
  Unref();
}

Napi::Object DefineUnixStreams(Napi::Env env) {
  Napi::Object streams = Napi::Object::New(env);
  const auto connect = [](const Napi::CallbackInfo& info) -> Napi::Value {
    Fd stream;
    ThrowIfFailed(info.Env(), ConnectUnix(info[0].ToString().Utf8Value(), &stream));
    return Napi::Number::New(info.Env(), stream.Release());
  };
  const auto pair = [](const Napi::CallbackInfo& info) -> Napi::Value {
    Fd ours, theirs;
    ThrowIfFailed(info.Env(), PairUnix(&ours, &theirs));
    const Napi::Array both = Napi::Array::New(info.Env());
    both.Set(0u, ours.Release());
    both.Set(1u, theirs.Release());
    return both;
  };
  streams.Set("connect", Napi::Function::New(env, connect));
  streams.Set("pair", Napi::Function::New(env, pair));
  return streams;
}

}  // namespace vmm
