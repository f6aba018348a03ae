#include "io_uring.h"

#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <utility>

namespace vmm {
namespace {

constexpr uint64_t kKickTag = ~uint64_t{0};
constexpr uint32_t kKickIndex = 0, kFilesIndex = 1;
constexpr uint32_t kEntriesMin = 8, kEntriesMax = 32768;  // the latter is the kernel's
constexpr std::array kOpcodes{IORING_OP_POLL_ADD, IORING_OP_READ,   IORING_OP_READV,
                              IORING_OP_WRITE,    IORING_OP_WRITEV, IORING_OP_FSYNC,
                              IORING_OP_FALLOCATE};

/// Completions are made by the thread itself when it asks for them, so that none interrupts it.
constexpr uint32_t kOwnThreadFlags =
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;  // 6.1

uint32_t Load(const uint32_t* at) {
  return std::atomic_ref(*const_cast<uint32_t*>(at)).load(std::memory_order_acquire);
}
void Store(uint32_t* at, uint32_t value) {
  std::atomic_ref(*at).store(value, std::memory_order_release);
}

int Setup(uint32_t entries, uint32_t flags, io_uring_params* params) {
  *params = {};
  params->flags = flags;
  return static_cast<int>(syscall(SYS_io_uring_setup, entries, params));
}

bool HasOpcodes(int ring) {
  constexpr size_t kOpsMax = 64;
  alignas(io_uring_probe)
      std::array<std::byte, sizeof(io_uring_probe) + kOpsMax * sizeof(io_uring_probe_op)>
          room{};
  auto* probe = reinterpret_cast<io_uring_probe*>(room.data());
  if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_PROBE, probe, kOpsMax) < 0) return false;
  return std::all_of(kOpcodes.begin(), kOpcodes.end(), [&](size_t opcode) {
    return opcode < probe->ops_len && (probe->ops[opcode].flags & IO_URING_OP_SUPPORTED) != 0;
  });
}

}  // namespace

void IoUring::Unmap::operator()(std::byte* at) const { munmap(at, size_bytes); }

int IoUring::Open(const std::vector<File>& files, const EventFd& kick, uint16_t depth,
                  std::unique_ptr<FileIo>* out) {
  const uint32_t entries = std::clamp<uint32_t>(depth, kEntriesMin, kEntriesMax);
  io_uring_params params;
  Fd ring(Setup(entries, kOwnThreadFlags, &params));
  if (!ring.ok() && errno == EINVAL) ring = Fd(Setup(entries, 0, &params));
  if (!ring.ok()) return -errno;
  // Came with 5.13, as did a poll that stays; the probe cannot tell of that.
  if ((params.features & IORING_FEAT_RSRC_TAGS) == 0 || !HasOpcodes(ring.get())) return -ENOSYS;
  std::unique_ptr<IoUring> io(new IoUring(files, std::move(ring)));
  if (const int rc = io->Map(params); rc < 0) return rc;
  if (const int rc = io->Register(kick); rc < 0) return rc;
  *out = std::move(io);
  return 0;
}

int IoUring::Map(const io_uring_params& params) {
  const auto map = [this](size_t size_bytes, off_t offset, Mapping* out) {
    void* at = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                    ring_.get(), offset);
    if (at == MAP_FAILED) return -errno;
    *out = Mapping(static_cast<std::byte*>(at), Unmap{size_bytes});
    return 0;
  };
  const size_t rings_bytes =
      std::max(params.sq_off.array + params.sq_entries * sizeof(uint32_t),
               params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe));
  if (const int rc = map(rings_bytes, IORING_OFF_SQ_RING, &rings_); rc < 0) return rc;
  const size_t sqes_bytes = params.sq_entries * sizeof(io_uring_sqe);
  if (const int rc = map(sqes_bytes, IORING_OFF_SQES, &sqe_room_); rc < 0) return rc;

  const auto word = [this](uint32_t offset) {
    return reinterpret_cast<uint32_t*>(rings_.get() + offset);
  };
  sq_head_ = word(params.sq_off.head);
  sq_tail_ = word(params.sq_off.tail);
  sq_flags_ = word(params.sq_off.flags);
  cq_head_ = word(params.cq_off.head);
  cq_tail_ = word(params.cq_off.tail);
  sq_entries_ = params.sq_entries;
  cq_mask_ = params.cq_entries - 1;
  sqes_ = reinterpret_cast<io_uring_sqe*>(sqe_room_.get());
  cqes_ = reinterpret_cast<const io_uring_cqe*>(rings_.get() + params.cq_off.cqes);
  for (uint32_t i = 0; i < sq_entries_; ++i) word(params.sq_off.array)[i] = i;
  return 0;
}

int IoUring::Register(const EventFd& kick) const {
  std::vector<int> fds{kick.get()};
  static_assert(kKickIndex == 0 && kFilesIndex == 1);
  for (const File& file : files_) fds.push_back(file.fd);
  const auto rc =
      syscall(SYS_io_uring_register, ring_.get(), IORING_REGISTER_FILES, fds.data(), fds.size());
  return rc < 0 ? -errno : 0;
}

io_uring_sqe* IoUring::NextSqe() {
  while (filled_ - Load(sq_head_) == sq_entries_) Enter(kNoSleep);
  io_uring_sqe* sqe = &sqes_[filled_++ & (sq_entries_ - 1)];
  *sqe = {};
  sqe->flags = IOSQE_FIXED_FILE;
  return sqe;
}

void IoUring::Submit(const FileOp& op, uint32_t tag) {
  if (op.kind == FileOp::Kind::kDiscard && files_[op.file].block_device) {
    done_.push_back({tag, DoFileOp(files_[op.file], op)});
    return;
  }
  io_uring_sqe* sqe = NextSqe();
  sqe->fd = static_cast<int32_t>(kFilesIndex + op.file);
  sqe->user_data = tag;
  const bool one = op.iov_count == 1;  // a plain read or write costs a little less
  switch (op.kind) {
    case FileOp::Kind::kRead:
    case FileOp::Kind::kWrite: {
      const bool read = op.kind == FileOp::Kind::kRead;
      sqe->opcode = read ? (one ? IORING_OP_READ : IORING_OP_READV)
                         : (one ? IORING_OP_WRITE : IORING_OP_WRITEV);
      sqe->off = op.offset;
      sqe->addr = reinterpret_cast<uint64_t>(one ? op.iov->iov_base : op.iov);
      sqe->len = one ? static_cast<uint32_t>(op.iov->iov_len) : op.iov_count;
      sqe->rw_flags = op.durable ? RWF_DSYNC : 0;
      break;
    }
    case FileOp::Kind::kSync:
      sqe->opcode = IORING_OP_FSYNC;
      sqe->fsync_flags = IORING_FSYNC_DATASYNC;
      break;
    case FileOp::Kind::kDiscard:
    case FileOp::Kind::kZero:
      sqe->opcode = IORING_OP_FALLOCATE;
      sqe->off = op.offset;
      sqe->addr = op.length;
      sqe->len = static_cast<uint32_t>(FallocateMode(op));
      break;
  }
}

void IoUring::PollKick() {
  io_uring_sqe* sqe = NextSqe();
  sqe->opcode = IORING_OP_POLL_ADD;
  sqe->fd = kKickIndex;
  sqe->poll32_events = POLLIN;
  sqe->len = IORING_POLL_ADD_MULTI;
  sqe->user_data = kKickTag;
  polling_ = true;
}

/// It may fail because the kernel is short of memory or wants its completions taken first: so it is
/// tried again with the next batch, but not at once.
void IoUring::Enter(Until until) {
  Store(sq_tail_, filled_);
  const bool timed = until != kNoSleep && until != kForever;
  const timespec left = ToTimespec(timed ? std::max<int64_t>(until.ns - SteadyNowNs(), 0) : 0);
  io_uring_getevents_arg arg{0, 0, 0, reinterpret_cast<uint64_t>(&left)};
  const auto taken =
      syscall(SYS_io_uring_enter, ring_.get(), filled_ - started_, until == kNoSleep ? 0 : 1,
              IORING_ENTER_GETEVENTS | (timed ? IORING_ENTER_EXT_ARG : 0), timed ? &arg : nullptr,
              timed ? sizeof(arg) : 0);
  if (taken > 0) started_ += static_cast<uint32_t>(taken);
  if (taken < 0 && errno != EINTR && errno != ETIME) usleep(1000);
}

bool IoUring::HasCompletions() const { return Load(cq_tail_) != *cq_head_; }

void IoUring::Reap(std::vector<Done>* done) {
  uint32_t head = *cq_head_;
  for (const uint32_t tail = Load(cq_tail_); head != tail; ++head) {
    const io_uring_cqe& cqe = cqes_[head & cq_mask_];
    if (cqe.user_data == kKickTag)
      polling_ = (cqe.flags & IORING_CQE_F_MORE) != 0;
    else
      done->push_back({static_cast<uint32_t>(cqe.user_data), cqe.res});
  }
  Store(cq_head_, head);
  done->insert(done->end(), done_.begin(), done_.end());
  done_.clear();
}

void IoUring::Run(Until until, std::vector<Done>* done) {
  if (!polling_) PollKick();
  const bool sleep = until != kNoSleep && done_.empty() && !HasCompletions();
  const bool ask = (Load(sq_flags_) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
  if (sleep || ask || filled_ != started_) Enter(sleep ? until : kNoSleep);
  Reap(done);
}

}  // namespace vmm
