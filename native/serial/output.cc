#include "output.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include <chrono>

namespace vmm {
namespace {

/// What one write(2) is given. A terminal that polls writable takes about this much at once.
constexpr size_t kChunkBytes = 4096;

}  // namespace

Output::Output(const std::string& thread_name, int fd) : fd_(fd) {
  if (fd_ >= 0) writer_ = Thread(thread_name, [this] { Run(); });
}

Output::~Output() {
  if (!writer_.joinable()) return;
  std::unique_lock lock(mutex_);
  stop_ = true;
  changed_.notify_all();
  // A kick that comes just before a blocking write is lost, so it is repeated until one counts.
  while (!changed_.wait_for(lock, std::chrono::milliseconds(1), [this] { return !stop_; }))
    writer_.Kick();
}

void Output::Put(const uint8_t* bytes, size_t count) {
  if (fd_ < 0) return;
  const std::lock_guard lock(mutex_);
  ring_.Put(bytes, count);
  changed_.notify_all();
}

bool Output::Flush(uint32_t timeout_ms) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                           [this] { return ring_.empty() && !writing_; });
}

void Output::Run() {
  std::vector<uint8_t> chunk;
  chunk.reserve(kChunkBytes);
  while (TakeChunk(&chunk)) WriteOut(chunk);
  const std::lock_guard lock(mutex_);
  stop_ = false;  // tells the destructor that no more kicks are needed
  changed_.notify_all();
}

bool Output::TakeChunk(std::vector<uint8_t>* chunk) {
  std::unique_lock lock(mutex_);
  writing_ = false;
  if (ring_.empty()) changed_.notify_all();
  changed_.wait(lock, [this] { return stop_ || !ring_.empty(); });
  if (stop_) return false;
  ring_.Take(kChunkBytes, chunk);
  writing_ = true;
  return true;
}

void Output::WriteOut(const std::vector<uint8_t>& chunk) {
  for (size_t done = 0; done < chunk.size();) {
    const ssize_t wrote = write(fd_, chunk.data() + done, chunk.size() - done);
    if (wrote > 0) {
      done += static_cast<size_t>(wrote);
      continue;
    }
    if (wrote < 0 && errno == EAGAIN) {  // somebody made the descriptor non-blocking
      pollfd writable{fd_, POLLOUT, 0};
      poll(&writable, 1, -1);
    } else if (wrote < 0 && errno != EINTR) {
      return;  // the reader has gone: these bytes are nobody's
    }
    const std::lock_guard lock(mutex_);
    if (stop_) return;
  }
}

}  // namespace vmm
