#include "aio.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace vmm {
namespace {

/// How many are asked for at a time; more come with the next call.
constexpr size_t kEventsMax = 128;

uint16_t Opcode(FileOp::Kind kind) {
  if (kind == FileOp::Kind::kRead) return IOCB_CMD_PREADV;
  return kind == FileOp::Kind::kWrite ? IOCB_CMD_PWRITEV : IOCB_CMD_FDSYNC;
}

}  // namespace

int Aio::Open(const std::vector<File>& files, const EventFd* kick, uint16_t depth,
              std::unique_ptr<FileIo>* out) {
  aio_context_t context = 0;
  if (syscall(SYS_io_setup, depth, &context) < 0) return -errno;
  out->reset(new Aio(files, kick, context, depth));
  return 0;
}

Aio::Aio(const std::vector<File>& files, const EventFd* kick, aio_context_t context, uint16_t depth)
    : files_(files), kick_(kick), context_(context), events_(std::min<size_t>(depth, kEventsMax)) {
  taken_.reserve(depth);
  pointers_.reserve(depth);
}

Aio::~Aio() { syscall(SYS_io_destroy, context_); }

void Aio::Submit(const FileOp& op, uint32_t tag) {
  if (op.kind == FileOp::Kind::kDiscard || op.kind == FileOp::Kind::kZero) {
    done_.push_back({tag, DoFileOp(files_[op.file], op)});
    return;
  }
  iocb& block = taken_.emplace_back();
  block.aio_data = tag;
  block.aio_lio_opcode = Opcode(op.kind);
  block.aio_rw_flags = op.durable ? RWF_DSYNC : 0;
  block.aio_fildes = static_cast<uint32_t>(files_[op.file].fd);
  if (op.kind != FileOp::Kind::kSync) {
    block.aio_buf = reinterpret_cast<uint64_t>(op.iov);
    block.aio_nbytes = op.iov_count;
    block.aio_offset = static_cast<int64_t>(op.offset);
  }
  if (kick_ == nullptr) return;
  block.aio_flags = IOCB_FLAG_RESFD;
  block.aio_resfd = static_cast<uint32_t>(kick_->get());
}

/// Whatever the kernel refuses to take is done with the error it gave.
void Aio::Start() {
  pointers_.clear();
  for (iocb& block : taken_) pointers_.push_back(&block);
  for (size_t started = 0; started < pointers_.size();) {
    const auto left = static_cast<long>(pointers_.size() - started);
    const long accepted = syscall(SYS_io_submit, context_, left, pointers_.data() + started);
    if (accepted > 0) {
      started += static_cast<size_t>(accepted);
      in_flight_ += static_cast<size_t>(accepted);
      continue;
    }
    const auto tag = static_cast<uint32_t>(pointers_[started++]->aio_data);
    done_.push_back({tag, accepted < 0 ? -errno : -EIO});
  }
  taken_.clear();
}

void Aio::Reap(std::vector<Done>* done) {
  done->insert(done->end(), done_.begin(), done_.end());
  done_.clear();
  while (in_flight_ > 0) {
    timespec now{};
    const auto most = static_cast<long>(events_.size());
    const long least = kick_ == nullptr ? std::min(most, static_cast<long>(in_flight_)) : 0;
    const long count = syscall(SYS_io_getevents, context_, least, most, events_.data(),
                               kick_ == nullptr ? nullptr : &now);
    if (count < 0 && errno == EINTR && kick_ == nullptr) continue;
    if (count <= 0) return;
    in_flight_ -= static_cast<size_t>(count);
    for (long i = 0; i < count; ++i)
      done->push_back({static_cast<uint32_t>(events_[static_cast<size_t>(i)].data),
                       events_[static_cast<size_t>(i)].res});
    if (kick_ != nullptr && count < most) return;
  }
}

void Aio::Run(Until until, std::vector<Done>* done) {
  const size_t before = done->size();
  if (!taken_.empty()) Start();
  Reap(done);
  if (until == kNoSleep || kick_ == nullptr || done->size() > before) return;
  SleepUntil(*kick_, until);
  Reap(done);
}

}  // namespace vmm
