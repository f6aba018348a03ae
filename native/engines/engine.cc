#include "engine.h"

#include <sched.h>

#include <system_error>
#include <utility>

namespace vmm {
namespace {

void RunOn(const std::vector<uint32_t>& cpus) {
  if (cpus.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const uint32_t cpu : cpus)
    if (cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
  // They were there when the config was checked; without them it runs where it can.
  sched_setaffinity(0, sizeof(set), &set);
}

/// `done`, to be called by whoever is the last of `count`.
std::function<void()> Last(size_t count, const std::function<void()>& done) {
  return [left = std::make_shared<std::atomic<size_t>>(count), done] {
    if (left->fetch_sub(1) == 1) done();
  };
}

}  // namespace

EngineThread::EngineThread(const std::string& name, std::vector<uint32_t> cpus,
                           std::unique_ptr<EngineWork> work)
    : work_(std::move(work)), thread_(name, [this, cpus = std::move(cpus)] { Run(cpus); }) {}

void EngineThread::Run(const std::vector<uint32_t>& cpus) {
  RunOn(cpus);
  do {
    work_->Serve(leave_);
  } while (Park());
  std::unique_lock lock(mutex_);
  work_.reset();
  const auto waiting = std::exchange(waiting_, {});
  lock.unlock();
  for (const auto& ended : waiting) ended();
}

/// True when it is to serve again, false when it is to end.
bool EngineThread::Park() {
  std::unique_lock lock(mutex_);
  if (end_) return false;
  parked_ = true;
  const auto waiting = std::exchange(waiting_, {});
  lock.unlock();
  for (const auto& parked : waiting) parked();
  lock.lock();
  changed_.wait(lock, [this] { return go_ || end_; });
  parked_ = go_ = false;
  return !end_;
}

/// With the mutex held, so that the work is there.
void EngineThread::Leave() {
  leave_.store(true);
  if (work_ != nullptr) work_->Wake();
}

void EngineThread::Pause(std::function<void()> parked) {
  {
    const std::lock_guard lock(mutex_);
    go_ = false;
    Leave();
    if (!parked_ && work_ != nullptr) {
      waiting_.push_back(std::move(parked));
      return;
    }
  }
  parked();
}

void EngineThread::Resume() {
  std::unique_lock lock(mutex_);
  if (end_) return;
  leave_.store(false);
  go_ = true;
  changed_.notify_one();
  const auto waiting = std::exchange(waiting_, {});
  lock.unlock();
  for (const auto& parked : waiting) parked();
}

void EngineThread::Stop(std::function<void()> ended) {
  {
    const std::lock_guard lock(mutex_);
    end_ = true;
    Leave();
    changed_.notify_one();
    if (work_ != nullptr) {
      if (ended) waiting_.push_back(std::move(ended));
      return;
    }
  }
  if (ended) ended();
}

int Engine::AddThread(const std::string& name, std::vector<uint32_t> cpus,
                      std::unique_ptr<EngineWork> work) {
  try {
    threads_.push_back(std::make_unique<EngineThread>(name, std::move(cpus), std::move(work)));
  } catch (const std::system_error& error) {
    return -error.code().value();
  }
  return 0;
}

void Engine::Pause(const std::function<void()>& done) {
  if (threads_.empty()) return done();
  const auto parked = Last(threads_.size(), done);
  for (const auto& thread : threads_) thread->Pause(parked);
}

void Engine::Resume() {
  for (const auto& thread : threads_) thread->Resume();
}

void Engine::Stop(const std::function<void()>& done) {
  if (threads_.empty()) return done();
  const auto ended = Last(threads_.size(), done);
  for (const auto& thread : threads_) thread->Stop(ended);
}

}  // namespace vmm
