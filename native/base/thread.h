#pragma once
#include <pthread.h>
#include <signal.h>

#include <functional>
#include <string>
#include <thread>

namespace vmm {

/// The one signal that our threads take: it makes a blocking system call return EINTR.
int KickSignal();

/// A named thread that blocks every signal but the kick, so that the process's own signals go to
/// the JS thread. Joined by the destructor: whoever owns one first makes its body return.
class Thread {
 public:
  Thread() = default;
  /// Throws std::system_error if the host has no thread to give.
  Thread(const std::string& name, std::function<void()> body);
  Thread(Thread&&) noexcept = default;
  Thread& operator=(Thread&&) noexcept = default;
  ~Thread() { Join(); }

  /// Only while the body runs or before it is joined: the thread's id is valid until then.
  void Kick() { pthread_kill(thread_.native_handle(), KickSignal()); }
  void Join() {
    if (thread_.joinable()) thread_.join();
  }
  bool joinable() const { return thread_.joinable(); }

 private:
  std::thread thread_;
};

}  // namespace vmm
