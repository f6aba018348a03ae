#include "thread.h"

#include <memory>
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
  sigdelset(&all, SIGBUS);  // a fault: blocked, it would end the process
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const std::unique_ptr<sigset_t, void (*)(sigset_t*)> restore(
      &before, [](sigset_t* mask) { pthread_sigmask(SIG_SETMASK, mask, nullptr); });
  const std::string comm = name.substr(0, 15);  // the kernel's limit
  thread_ = std::thread([comm, body = std::move(body)] {
    pthread_setname_np(pthread_self(), comm.c_str());
    body();
  });
  // Clients find the vCPUs' threads by name as soon as vm.boot is answered, and the thread may not
  // have run yet. Its own call is for hosts without /proc, which this one goes through.
  pthread_setname_np(thread_.native_handle(), comm.c_str());
}

}  // namespace vmm
