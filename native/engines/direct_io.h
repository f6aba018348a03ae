#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <shared_mutex>
#include <vector>

#include "file_io.h"

namespace vmm {

/// What the queues of one disk share: while one of them reads a block, changes a part of it and
/// writes it back, none of the others has I/O in flight.
using BlockLock = std::shared_mutex;

/// For files opened with O_DIRECT: what is not aligned as they need it goes through a buffer of
/// ours, at once and one after another. A driver that keeps to the block size that it was told of
/// does without.
class DirectIo final : public FileIo {
 public:
  /// `lock` is shared by all who work on these files.
  DirectIo(std::unique_ptr<FileIo> inner, const std::vector<File>& files,
           std::shared_ptr<BlockLock> lock)
      : inner_(std::move(inner)), files_(files), lock_(std::move(lock)) {}
  ~DirectIo() override;
  DirectIo(const DirectIo&) = delete;
  DirectIo& operator=(const DirectIo&) = delete;

  void Submit(const FileOp& op, uint32_t tag) override;
  void Run(Until until, std::vector<Done>* done) override;

 private:
  struct Free {
    void operator()(std::byte* at) const { std::free(at); }
  };
  using Buffer = std::unique_ptr<std::byte, Free>;

  bool IsAligned(const FileOp& op) const;
  int64_t Bounce(const FileOp& op) const;
  int64_t BouncePiece(const FileOp& op, uint64_t done, std::byte* buffer) const;
  void Drain();

  const std::unique_ptr<FileIo> inner_;
  const std::vector<File> files_;
  const std::shared_ptr<BlockLock> lock_;  // held shared while anything is in flight in `inner_`
  size_t in_flight_ = 0;
  std::vector<Done> done_;
};

}  // namespace vmm
