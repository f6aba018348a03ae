#include "fd_poll.h"

namespace vmm {

int FdPoll::Start(Napi::Env env, int fd, Ready ready, std::shared_ptr<FdPoll>* out) {
  uv_loop_t* loop = nullptr;
  napi_get_uv_event_loop(env, &loop);
  auto self = std::make_shared<FdPoll>(env, std::move(ready));
  if (const int rc = uv_poll_init(loop, &self->poll_, fd); rc < 0) return rc;
  self->self_ = self;
  self->poll_.data = self.get();
  uv_unref(reinterpret_cast<uv_handle_t*>(&self->poll_));
  uv_poll_start(&self->poll_, UV_READABLE, OnReadable);
  // An environment that ends waits for this hook, and so until the loop has let go of the handle.
  napi_add_async_cleanup_hook(env, OnEnvironmentEnd, self.get(), &self->hook_);
  *out = std::move(self);
  return 0;
}

void FdPoll::Close() {
  ready_ = nullptr;
  auto* handle = reinterpret_cast<uv_handle_t*>(&poll_);
  if (!uv_is_closing(handle)) uv_close(handle, OnClosed);
}

void FdPoll::OnClosed(uv_handle_t* handle) {
  const std::shared_ptr<FdPoll> self = std::move(static_cast<FdPoll*>(handle->data)->self_);
  napi_remove_async_cleanup_hook(self->hook_);
}

void FdPoll::OnReadable(uv_poll_t* poll, int, int) {
  const auto* self = static_cast<FdPoll*>(poll->data);
  const Napi::HandleScope scope(self->env_);
  const Ready ready = self->ready_;  // for it may close the poll
  ready(self->env_);
}

void FdPoll::OnEnvironmentEnd(napi_async_cleanup_hook_handle, void* self) {
  static_cast<FdPoll*>(self)->Close();
}

}  // namespace vmm
