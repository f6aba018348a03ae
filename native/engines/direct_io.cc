#include "direct_io.h"

#include <errno.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>

namespace vmm {
namespace {

/// Of one piece, and so of all the memory that a queue takes for this.
constexpr uint64_t kBufferBytes = 256 << 10;

/// Copies between `buffer` and the bytes of `op` from `done` on.
void Copy(const FileOp& op, uint64_t done, std::byte* buffer, uint64_t count) {
  for (uint32_t i = 0; i < op.iov_count && count > 0; ++i) {
    const uint64_t skipped = std::min<uint64_t>(done, op.iov[i].iov_len);
    const uint64_t part = std::min(count, op.iov[i].iov_len - skipped);
    auto* data = static_cast<std::byte*>(op.iov[i].iov_base) + skipped;
    if (part > 0 && op.kind == FileOp::Kind::kRead)
      std::memcpy(data, buffer, part);
    else if (part > 0)
      std::memcpy(buffer, data, part);
    done -= skipped;
    count -= part;
    buffer += part;
  }
}

/// Fewer only at the end of the file.
int64_t ReadBlocks(const File& file, std::byte* to, uint64_t offset, uint64_t length) {
  const iovec piece{to, length};
  const FileOp op{FileOp::Kind::kRead, false, false, 0, offset, length, &piece, 1};
  int64_t got;
  do {
    got = DoFileOp(file, op);
  } while (got == -EINTR);
  return got;
}

int64_t WriteBlocks(const File& file, const std::byte* from, uint64_t offset, uint64_t length,
                    bool durable) {
  const iovec piece{const_cast<std::byte*>(from), length};
  const FileOp op{FileOp::Kind::kWrite, durable, false, 0, offset, length, &piece, 1};
  int64_t put;
  do {
    put = DoFileOp(file, op);
  } while (put == -EINTR);
  return put < 0 || static_cast<uint64_t>(put) == length ? put : -EIO;
}

}  // namespace

DirectIo::~DirectIo() {
  if (in_flight_ > 0) lock_->unlock_shared();
}

bool DirectIo::IsAligned(const FileOp& op) const {
  const uint64_t align = files_[op.file].align_bytes;
  return op.offset % align == 0 && op.length % align == 0 &&
         std::all_of(op.iov, op.iov + op.iov_count, [align](const iovec& piece) {
           return reinterpret_cast<uintptr_t>(piece.iov_base) % align == 0 &&
                  piece.iov_len % align == 0;
         });
}

void DirectIo::Submit(const FileOp& op, uint32_t tag) {
  const bool moves = op.kind == FileOp::Kind::kRead || op.kind == FileOp::Kind::kWrite;
  if (!moves || IsAligned(op)) {
    if (in_flight_++ == 0) lock_->lock_shared();
    inner_->Submit(op, tag);
    return;
  }
  if (op.kind == FileOp::Kind::kRead) {
    done_.push_back({tag, Bounce(op)});
    return;
  }
  Drain();
  const std::unique_lock only(*lock_);
  done_.push_back({tag, Bounce(op)});
}

/// Ours must not be among those that are waited for.
void DirectIo::Drain() {
  while (in_flight_ > 0) Run(kForever, &done_);
}

void DirectIo::Run(Until until, std::vector<Done>* done) {
  const bool any = !done_.empty() && done != &done_;
  if (any) {
    done->insert(done->end(), done_.begin(), done_.end());
    done_.clear();
  }
  const size_t before = done->size();
  inner_->Run(any ? kNoSleep : until, done);
  const size_t ended = done->size() - before;
  if (ended == 0) return;
  in_flight_ -= ended;
  if (in_flight_ == 0) lock_->unlock_shared();
}

int64_t DirectIo::Bounce(const FileOp& op) const {
  const uint64_t align = files_[op.file].align_bytes;
  void* room = nullptr;
  // One block before and one behind, for what is not asked for.
  if (posix_memalign(&room, std::max<uint64_t>(align, sizeof(void*)), kBufferBytes + 2 * align) !=
      0)
    return -ENOMEM;
  const Buffer buffer(static_cast<std::byte*>(room));
  uint64_t done = 0;
  while (done < op.length) {
    const int64_t moved = BouncePiece(op, done, buffer.get());
    if (moved <= 0) return done > 0 ? static_cast<int64_t>(done) : moved;
    done += static_cast<uint64_t>(moved);
  }
  return static_cast<int64_t>(done);
}

/// Returns how many bytes of `op` were moved, or a negative errno.
int64_t DirectIo::BouncePiece(const FileOp& op, uint64_t done, std::byte* buffer) const {
  const File& file = files_[op.file];
  const uint64_t align = file.align_bytes;
  const uint64_t begin = op.offset + done;
  const uint64_t end = begin + std::min(op.length - done, kBufferBytes);
  const uint64_t first = begin / align * align;
  const uint64_t last = (end + align - 1) / align * align;
  if (op.kind == FileOp::Kind::kRead) {
    const int64_t got = ReadBlocks(file, buffer, first, last - first);
    if (got < 0) return got;
    const uint64_t wanted = std::min(end - first, static_cast<uint64_t>(got));
    if (wanted <= begin - first) return 0;
    Copy(op, done, buffer + (begin - first), wanted - (begin - first));
    return static_cast<int64_t>(wanted - (begin - first));
  }
  // What the file ends before is zero there.
  std::memset(buffer, 0, align);
  std::memset(buffer + (last - first) - align, 0, align);
  int64_t rc = begin != first ? ReadBlocks(file, buffer, first, align) : 0;
  if (rc >= 0 && end != last && (begin == first || last - first > align))
    rc = ReadBlocks(file, buffer + (last - first) - align, last - align, align);
  if (rc < 0) return rc;
  Copy(op, done, buffer + (begin - first), end - begin);
  rc = WriteBlocks(file, buffer, first, last - first, op.durable);
  return rc < 0 ? rc : static_cast<int64_t>(end - begin);
}

}  // namespace vmm
