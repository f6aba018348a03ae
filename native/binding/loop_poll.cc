#include "loop_poll.h"

#include <utility>

#include "addon_data.h"

namespace vmm {

LoopPolls::LoopPolls(Napi::Env env) { napi_add_async_cleanup_hook(env, &OnEnd, this, &hook_); }

void LoopPolls::OnEnd(napi_async_cleanup_hook_handle hook, void* data) {
  auto* self = static_cast<LoopPolls*>(data);
  self->ending_ = true;
  if (self->open_.empty()) return void(napi_remove_async_cleanup_hook(hook));
  for (LoopPoll* poll : self->open_) poll->Close();
}

/// The environment waits for the hook's removal, and may take this object along.
void LoopPolls::Remove(LoopPoll* poll) {
  open_.erase(poll);
  if (ending_ && open_.empty()) napi_remove_async_cleanup_hook(hook_);
}

LoopPoll* LoopPoll::Open(Napi::Env env, int fd, Watcher* watcher, int* error) {
  uv_loop_t* loop = nullptr;
  napi_get_uv_event_loop(env, &loop);
  auto poll = std::unique_ptr<LoopPoll>(new LoopPoll(env, watcher));
  if (const int rc = uv_poll_init(loop, &poll->handle_, fd); rc < 0) {
    *error = -rc;
    return nullptr;
  }
  poll->handle_.data = poll.get();
  AddonData::Of(env).polls.open_.insert(poll.get());
  return poll.release();
}

void LoopPoll::Watch(int events) {
  if (std::exchange(events_, events) == events) return;
  if (events == 0)
    uv_poll_stop(&handle_);
  else
    uv_poll_start(&handle_, events, &OnEvents);
}

void LoopPoll::Close() {
  auto* handle = reinterpret_cast<uv_handle_t*>(&handle_);
  if (!uv_is_closing(handle)) uv_close(handle, &OnHandleClosed);
}

void LoopPoll::OnEvents(uv_poll_t* handle, int status, int events) {
  auto* self = static_cast<LoopPoll*>(handle->data);
  // libuv takes EPOLLERR for a bad descriptor and stops: a peer that left unread what we sent makes
  // one, and bytes of its may still lie there.
  const int ready = status < 0 ? std::exchange(self->events_, 0) : events;
  const Napi::HandleScope scope(self->env_);
  self->watcher_->OnReady(self->env_, ready);
}

void LoopPoll::OnHandleClosed(uv_handle_t* handle) {
  const std::unique_ptr<LoopPoll> self(static_cast<LoopPoll*>(handle->data));
  LoopPolls& polls = AddonData::Of(self->env_).polls;
  {
    const Napi::HandleScope scope(self->env_);
    self->watcher_->OnClosed(self->env_, polls.ending_);
  }
  polls.Remove(self.get());
}

}  // namespace vmm
