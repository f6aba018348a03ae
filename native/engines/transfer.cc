#include "transfer.h"

#include <errno.h>

#include <algorithm>

namespace vmm {
namespace {

/// A host that keeps saying "again" has failed.
constexpr uint8_t kRetriesMax = 16;

/// Where the host cannot zero a range, zeroes are written, so much at a time.
constexpr uint64_t kZeroPieceBytes = 64 << 10;
constexpr uint64_t kZeroPieces = 16;
/// More would keep a pause and a shutdown waiting: a driver then writes zeroes itself.
constexpr uint64_t kZeroedByHandMax = 64 << 20;
alignas(4096) std::byte zero_piece[kZeroPieceBytes];  // never written: all of it is one page

FileOp::Kind KindOf(BlockRequest::Kind kind) {
  switch (kind) {
    case BlockRequest::Kind::kRead:
      return FileOp::Kind::kRead;
    case BlockRequest::Kind::kWrite:
      return FileOp::Kind::kWrite;
    case BlockRequest::Kind::kDiscard:
      return FileOp::Kind::kDiscard;
    case BlockRequest::Kind::kWriteZeroes:
      return FileOp::Kind::kZero;
    case BlockRequest::Kind::kFlush:
    case BlockRequest::Kind::kGetId:
      break;
  }
  return FileOp::Kind::kSync;
}

}  // namespace

void Transfer::Begin(BlockRequest* request, bool durable) {
  request_ = request;
  op_ = {KindOf(request->kind),
         durable,
         request->unmap,
         request->offset_bytes,
         request->length_bytes,
         request->data.data(),
         static_cast<uint32_t>(request->data.size())};
  left_ = request->length_bytes;
  moved_ = 0;
  retries_ = 0;
}

Transfer::Step Transfer::Advance(int64_t result) {
  if (result == -EAGAIN || result == -EINTR)
    return ++retries_ <= kRetriesMax ? Step::kNext : Fail(EAGAIN);
  if (result == -EOPNOTSUPP && op_.kind == FileOp::Kind::kZero) return NotSupported();
  if (result < 0) return Fail(static_cast<int>(-result));
  switch (op_.kind) {
    case FileOp::Kind::kRead:
    case FileOp::Kind::kWrite:
      return Moved(static_cast<uint64_t>(result));
    case FileOp::Kind::kDiscard:
    case FileOp::Kind::kZero:
      return Changed();
    case FileOp::Kind::kSync:
      break;
  }
  return Step::kDone;
}

/// Goes on behind what is done. Nothing done means that the file ends here, or takes no more.
Transfer::Step Transfer::Moved(uint64_t bytes) {
  if (bytes == 0) return Fail(op_.kind == FileOp::Kind::kRead ? ENODATA : ENOSPC);
  retries_ = 0;
  op_.offset += bytes;
  op_.length -= bytes;
  left_ -= bytes;
  if (left_ == 0) return Step::kDone;
  if (op_.length == 0) return NextZeroes(), Step::kNext;
  auto& data = request_->data;
  while (bytes >= data[moved_].iov_len) bytes -= data[moved_++].iov_len;
  data[moved_].iov_base = static_cast<std::byte*>(data[moved_].iov_base) + bytes;
  data[moved_].iov_len -= bytes;
  op_.iov = data.data() + moved_;
  op_.iov_count = static_cast<uint32_t>(data.size() - moved_);
  return Step::kNext;
}

/// fallocate(2) knows no durable kind, so that is another operation.
Transfer::Step Transfer::Changed() {
  if (!op_.durable) return Step::kDone;
  op_.kind = FileOp::Kind::kSync;
  return Step::kNext;
}

Transfer::Step Transfer::NotSupported() {
  if (!op_.unmap && left_ > kZeroedByHandMax) return Fail(EOPNOTSUPP);
  if (op_.unmap)
    op_.unmap = false;
  else
    NextZeroes();
  return Step::kNext;
}

void Transfer::NextZeroes() {
  op_.kind = FileOp::Kind::kWrite;
  op_.length = std::min(left_, kZeroPieces * kZeroPieceBytes);
  auto& data = request_->data;
  data.clear();
  for (uint64_t at = 0; at < op_.length; at += kZeroPieceBytes)
    data.push_back({zero_piece, std::min(op_.length - at, kZeroPieceBytes)});
  op_.iov = data.data();
  op_.iov_count = static_cast<uint32_t>(data.size());
  moved_ = 0;
}

}  // namespace vmm
