#pragma once
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "../base/thread.h"
#include "byte_sink.h"
#include "ring.h"

namespace vmm {

/// A byte stream that never makes its producer wait: a bounded ring and the thread that writes it
/// out. When the reader is too slow, the oldest bytes are lost, and the newest stay.
class Output : public ByteSink {
 public:
  /// Writes to `fd`, borrowed, which may block for ever; -1 swallows everything.
  Output(const std::string& thread_name, int fd);
  /// What is still in the ring is lost, unless Flush came first.
  ~Output() override;

  void Put(const uint8_t* bytes, size_t count) override;
  bool Flush(uint32_t timeout_ms) override;

 private:
  void Run();
  /// Moves what the ring holds, up to a chunk, to `chunk`. False when it is time to end.
  bool TakeChunk(std::vector<uint8_t>* chunk);
  void WriteOut(const std::vector<uint8_t>& chunk);

  const int fd_;
  std::mutex mutex_;  // guards all below; never held over a system call
  std::condition_variable changed_;
  Ring ring_;
  bool writing_ = false;
  bool stop_ = false;
  Thread writer_;  // last: it starts when the rest is there
};

}  // namespace vmm
