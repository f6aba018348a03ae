#pragma once
#include <linux/io_uring.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "../base/fd.h"
#include "file_io.h"

namespace vmm {

/// io_uring: one system call starts a batch and waits, for what is done as for the kick, which the
/// ring polls. It is never read: each signal is one completion.
class IoUring final : public FileIo {
 public:
  /// 0, or a negative errno if the host has no io_uring with all that is used here (Linux 5.13).
  [[nodiscard]] static int Open(const std::vector<File>& files, const EventFd& kick, uint16_t depth,
                                std::unique_ptr<FileIo>* out);

  void Submit(const FileOp& op, uint32_t tag) override;
  void Run(Until until, std::vector<Done>* done) override;

 private:
  struct Unmap {
    size_t size_bytes;
    void operator()(std::byte* at) const;
  };
  using Mapping = std::unique_ptr<std::byte, Unmap>;

  IoUring(const std::vector<File>& files, Fd ring) : files_(files), ring_(std::move(ring)) {}
  int Map(const io_uring_params& params);
  int Register(const EventFd& kick) const;
  io_uring_sqe* NextSqe();
  void PollKick();
  void Enter(Until until);
  void Reap(std::vector<Done>* done);
  bool HasCompletions() const;

  const std::vector<File> files_;
  const Fd ring_;
  Mapping rings_, sqe_room_;
  // Shared with the kernel, which moves the SQ's head and the CQ's tail.
  uint32_t* sq_head_ = nullptr;
  uint32_t* sq_tail_ = nullptr;
  uint32_t* sq_flags_ = nullptr;
  uint32_t* cq_head_ = nullptr;
  uint32_t* cq_tail_ = nullptr;
  io_uring_sqe* sqes_ = nullptr;
  const io_uring_cqe* cqes_ = nullptr;
  uint32_t sq_entries_ = 0, cq_mask_ = 0;
  uint32_t filled_ = 0;     // the SQ's tail as we have it
  uint32_t started_ = 0;    // as the kernel has it
  bool polling_ = false;    // for the kick
  std::vector<Done> done_;  // on the spot
};

}  // namespace vmm
