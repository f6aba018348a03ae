#include "fd_poll.h"

namespace vmm {

int FdPoll::Start(Napi::Env env, int fd, Ready ready, std::shared_ptr<FdPoll>* out) {
  auto self = std::make_shared<FdPoll>(std::move(ready));
  int error = 0;
  self->poll_ = LoopPoll::Open(env, fd, self.get(), &error);
  if (self->poll_ == nullptr) return -error;
  self->self_ = self;
  self->poll_->Unref();
  self->poll_->Watch(UV_READABLE);
  *out = std::move(self);
  return 0;
}

void FdPoll::Close() {
  ready_ = nullptr;
  if (poll_ != nullptr) poll_->Close();
}

void FdPoll::OnReady(Napi::Env env, int) {
  const Ready ready = ready_;  // for it may close the poll
  if (ready) ready(env);
}

void FdPoll::OnClosed(Napi::Env, bool) {
  ready_ = nullptr;
  poll_ = nullptr;
  const std::shared_ptr<FdPoll> self = std::move(self_);
}

}  // namespace vmm
