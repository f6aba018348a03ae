#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "file_io.h"

namespace vmm {

/// io_uring for files in the page cache. It hands a write that might block to a thread of the
/// kernel's, and on ext4 each might: four times slower than to copy the bytes here and now, as a
/// batch of Linux AIO does.
class BufferedIo final : public FileIo {
 public:
  /// `writes` does everything in Run.
  BufferedIo(std::unique_ptr<FileIo> ring, std::unique_ptr<FileIo> writes)
      : ring_(std::move(ring)), writes_(std::move(writes)) {}

  void Submit(const FileOp& op, uint32_t tag) override {
    const bool copies = op.kind == FileOp::Kind::kWrite && !op.durable;
    (copies ? writes_ : ring_)->Submit(op, tag);
  }
  void Run(Until until, std::vector<Done>* done) override {
    const size_t before = done->size();
    writes_->Run(kNoSleep, done);
    ring_->Run(done->size() == before ? until : kNoSleep, done);
  }

 private:
  const std::unique_ptr<FileIo> ring_;
  const std::unique_ptr<FileIo> writes_;
};

}  // namespace vmm
