#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../base/thread.h"

namespace vmm {

/// What one thread of an engine does.
class EngineWork {
 public:
  virtual ~EngineWork() = default;
  /// The thread's own. Serves until `leave` is set and nothing is in flight any more, or until
  /// there is nothing that it could serve. It may be called again, on the same thread.
  virtual void Serve(const std::atomic<bool>& leave) = 0;
  /// Any thread. Makes Serve look at `leave` soon.
  virtual void Wake() = 0;
};

/// A named thread that serves, parks and serves again. It decides nothing.
class EngineThread {
 public:
  /// Runs on `cpus` only, or anywhere if there are none.
  EngineThread(const std::string& name, std::vector<uint32_t> cpus,
               std::unique_ptr<EngineWork> work);
  ~EngineThread() { Stop(nullptr); }

  /// Calls `parked` when nothing is in flight any more: on the thread, or here if it is so already.
  void Pause(std::function<void()> parked);
  /// Whoever still waits for a pause is told, for it will not come.
  void Resume();
  /// The same as Pause, for good. `ended` is the last that the thread calls: what is destroyed then
  /// is joined at once.
  void Stop(std::function<void()> ended);

 private:
  void Run(const std::vector<uint32_t>& cpus);
  bool Park();
  void Leave();

  std::mutex mutex_;  // guards all but `leave_`
  std::condition_variable changed_;
  std::unique_ptr<EngineWork> work_;  // made and destroyed under the mutex, else the thread's own
  std::vector<std::function<void()>> waiting_;
  bool parked_ = false;
  bool go_ = false;
  bool end_ = false;
  std::atomic<bool> leave_ = false;
  Thread thread_;  // last: it starts when the rest is there
};

/// The threads of one device. JS thread only; nothing here waits for one of them.
class Engine {
 public:
  /// Calls `done` once, when every thread is parked: on the last of them, or here if all are.
  void Pause(const std::function<void()>& done);
  void Resume();
  /// The same, when every thread has ended. `Join` is to follow, and then there are none.
  void Stop(const std::function<void()>& done);
  void Join() { threads_.clear(); }

 protected:
  /// 0 or a negative errno: a driver can have threads made at any time, and the host be short of
  /// them.
  int AddThread(const std::string& name, std::vector<uint32_t> cpus,
                std::unique_ptr<EngineWork> work);

 private:
  std::vector<std::unique_ptr<EngineThread>> threads_;
};

}  // namespace vmm
