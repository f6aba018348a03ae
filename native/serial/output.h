#pragma once
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "../base/thread.h"

namespace vmm {

/// A byte stream that never makes its producer wait: a bounded ring and the thread that writes it
/// out. When the reader is too slow, the oldest bytes are lost, and the newest stay.
class Output {
 public:
  static constexpr size_t kRingBytes = size_t{64} * 1024;

  /// Writes to `fd`, borrowed, which may block for ever; -1 swallows everything.
  Output(const std::string& thread_name, int fd);
  /// What is still in the ring is lost, unless Flush came first.
  ~Output();

  /// Any thread.
  void Put(const uint8_t* bytes, size_t count);
  /// Any thread but the writer. False if the ring is not written out within `timeout_ms`.
  bool Flush(uint32_t timeout_ms);

 private:
  void Run();
  /// Moves what the ring holds, up to a chunk, to `chunk`. False when it is time to end.
  bool TakeChunk(std::vector<uint8_t>* chunk);
  void WriteOut(const std::vector<uint8_t>& chunk);

  const int fd_;
  std::mutex mutex_;  // guards all below; never held over a system call
  std::condition_variable changed_;
  std::vector<uint8_t> ring_ = std::vector<uint8_t>(kRingBytes);
  size_t start_ = 0;
  size_t count_ = 0;
  bool writing_ = false;
  bool stop_ = false;
  Thread writer_;  // last: it starts when the rest is there
};

}  // namespace vmm
