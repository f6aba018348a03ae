#include "thread.h"

#include <utility>

namespace vmm {
namespace {

/// The handler does nothing: that the call was interrupted is the message. No SA_RESTART.
void InstallKickHandler() {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  sigemptyset(&action.sa_mask);
  sigaction(KickSignal(), &action, nullptr);
}

}  // namespace

int KickSignal() { return SIGRTMIN; }

Thread::Thread(const std::string& name, std::function<void()> body) {
  static const bool installed = (InstallKickHandler(), true);
  (void)installed;
  // The new thread inherits this mask, so that it never runs with a signal unblocked.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  sigdelset(&all, KickSignal());
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([name, body = std::move(body)] {
    pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());  // the kernel's limit
    body();
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace vmm
