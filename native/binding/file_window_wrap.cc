#include "file_window_wrap.h"

#include <string>

#include "args.h"
#include "js_queue.h"
#include "sys_error.h"

namespace vmm {

Napi::Function FileWindowWrap::Define(Napi::Env env) {
  return DefineClass(
      env, "FileWindow",
      {InstanceMethod<&FileWindowWrap::Map>("map"), InstanceMethod<&FileWindowWrap::Unmap>("unmap"),
       InstanceMethod<&FileWindowWrap::Sync>("sync"),
       InstanceMethod<&FileWindowWrap::Close>("close")});
}

FileWindowWrap::FileWindowWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const uint64_t size_bytes = ToU64(info[0], "sizeBytes");
  ThrowIfFailed(info.Env(), FileWindow::Create(size_bytes, &core_), "mmap(window)");
  Value().Set("sizeBytes", static_cast<double>(size_bytes));
}

std::shared_ptr<FileWindow> FileWindowWrap::ToWindow(Napi::Value value, const char* name) {
  const auto& window = Unwrap(ToObject(value, name))->core_;
  if (window == nullptr) throw Napi::TypeError::New(value.Env(), std::string(name) + " is closed");
  return window;
}

Napi::Value FileWindowWrap::Map(const Napi::CallbackInfo& info) {
  const Napi::Object options = ToObject(info[0], "options");
  const uint64_t offset = ToU64(options.Get("offset"), "offset");
  const uint64_t len = ToU64(options.Get("sizeBytes"), "sizeBytes");
  const int fd = ToFd(options.Get("fd"), "fd");
  const uint64_t file_offset = ToU64(options.Get("fileOffset"), "fileOffset");
  const bool writable = options.Get("writable").ToBoolean().Value();
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [=, window = ToWindow(Value(), "this")] {
    return Status{-window->Map(offset, len, fd, file_offset, writable), "mmap(window)"};
  });
}

Napi::Value FileWindowWrap::Unmap(const Napi::CallbackInfo& info) {
  const uint64_t offset = ToU64(info[0], "offset");
  const uint64_t len = ToU64(info[1], "sizeBytes");
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [=, window = ToWindow(Value(), "this")] {
    return Status{-window->Unmap(offset, len), "munmap(window)"};
  });
}

Napi::Value FileWindowWrap::Sync(const Napi::CallbackInfo& info) {
  const uint64_t offset = ToU64(info[0], "offset");
  const uint64_t len = ToU64(info[1], "sizeBytes");
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [=, window = ToWindow(Value(), "this")] {
    return Status{-window->Sync(offset, len), "msync(window)"};
  });
}

Napi::Value FileWindowWrap::Close(const Napi::CallbackInfo& info) {
  core_ = nullptr;
  return info.Env().Undefined();
}

}  // namespace vmm
