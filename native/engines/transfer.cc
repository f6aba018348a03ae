#include "transfer.h"

#include <errno.h>
#include <limits.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace vmm {
namespace {

/// A host that keeps saying "again" has failed.
constexpr uint8_t kRetriesMax = 16;

/// More pieces than this are rare, and give back the room that they took.
constexpr size_t kPiecesKept = 256;

/// What is written where nobody can zero a range.
constexpr uint64_t kZeroPieceBytes = 64 << 10;
alignas(4096) std::byte zero_piece[kZeroPieceBytes];  // never written: all of it is one page

}  // namespace

Transfer::Step Transfer::Begin(BlockRequest* request, DiskImage* disk, bool durable) {
  using Kind = BlockRequest::Kind;
  request_ = request;
  disk_ = disk;
  const bool writes_raw = request->kind == Kind::kWrite && disk->image() == nullptr;
  durable_ = durable && writes_raw;
  sync_last_ =
      request->kind == Kind::kFlush || (durable && request->kind != Kind::kRead && !writes_raw);
  unmap_ = request->unmap;
  has_op_ = writing_ = false;
  retries_ = 0;
  offset_ = request->offset_bytes;
  left_ = request->length_bytes;
  by_hand_ = used_up_ = 0;
  return Continue();
}

Transfer::Step Transfer::Continue() {
  if (has_op_) return Step::kOp;
  if (left_ == 0) return sync_last_ ? PlanSync() : Step::kDone;
  if (request_->kind == BlockRequest::Kind::kRead) return PlanRead();
  if (request_->kind == BlockRequest::Kind::kWrite || by_hand_ > 0) return PlanWrite();
  return PlanRange();
}

Transfer::Step Transfer::PlanRead() {
  for (uint64_t filled = 0; left_ > 0 && filled < kTransferBytesMax; filled += planned_) {
    op_ = {FileOp::Kind::kRead, false, false, 0, offset_, std::min(left_, kTransferBytesMax)};
    Extent extent{Extent::Kind::kFile, 0, offset_, op_.length, nullptr};
    const int rc =
        disk_->image() == nullptr ? 0 : disk_->image()->Read({offset_, op_.length}, &extent);
    if (rc < 0) return Fail(-rc);
    planned_ = extent.length;
    if (extent.kind == Extent::Kind::kFile) {
      op_.file = extent.file;
      op_.offset = extent.offset;
      return SetPieces();
    }
    FillFrom(extent);
    Pass();
  }
  return left_ == 0 ? Step::kDone : Step::kYield;
}

Transfer::Step Transfer::PlanWrite() {
  const uint64_t length = std::min(by_hand_ > 0 ? by_hand_ : left_, kTransferBytesMax);
  op_ = {FileOp::Kind::kWrite, durable_, false, 0, offset_, length};
  plan_.offset = offset_;
  plan_.length = length;
  if (disk_->image() != nullptr) {
    const int rc = disk_->BeginWrite({offset_, length}, &plan_);
    if (rc == -EBUSY) return Step::kBusy;
    if (rc < 0) return Fail(-rc);
    writing_ = true;
  }
  planned_ = plan_.length;
  op_.offset = plan_.offset;
  return SetPieces();
}

Transfer::Step Transfer::PlanRange() {
  const bool discards = request_->kind == BlockRequest::Kind::kDiscard;
  planned_ = std::min(left_, kRangeBytesMax);
  op_ = {
      discards ? FileOp::Kind::kDiscard : FileOp::Kind::kZero, false, unmap_, 0, offset_, planned_};
  Image* image = disk_->image();
  if (image == nullptr) {
    has_op_ = true;
    return Step::kOp;
  }
  const DiskRange range{offset_, planned_};
  const int rc =
      discards ? image->Discard(range) : image->Zero(range, unmap_, &planned_, &by_hand_);
  if (rc == -EBUSY) return Step::kBusy;
  if (rc < 0) return Fail(-rc);
  if (planned_ == 0 && by_hand_ == 0) return Fail(EIO);
  Pass();
  return Step::kYield;
}

Transfer::Step Transfer::PlanSync() {
  op_ = {};
  const int rc = disk_->image() == nullptr ? 0 : disk_->image()->Flush();
  if (rc < 0) return Fail(-rc);
  has_op_ = true;
  return Step::kOp;
}

/// Has the operation move what is planned, and what surrounds it.
Transfer::Step Transfer::SetPieces() {
  auto& data = request_->data;
  const auto surround = [this](std::vector<std::byte>& bytes) {
    if (!bytes.empty()) own_pieces_.push_back({bytes.data(), bytes.size()});
  };
  unmoved_ = plan_.before.size() + planned_ + plan_.after.size();
  if (unmoved_ == left_ && planned_ == left_ && by_hand_ == 0) {
    pieces_ = data.data() + used_up_;
    piece_count_ = data.size() - used_up_;
    return SetOp();
  }
  own_pieces_.clear();
  surround(plan_.before);
  for (uint64_t at = 0; at < planned_; at += own_pieces_.back().iov_len)
    own_pieces_.push_back(TakePiece(planned_ - at));
  surround(plan_.after);
  pieces_ = own_pieces_.data();
  piece_count_ = own_pieces_.size();
  return SetOp();
}

Transfer::Step Transfer::SetOp() {
  op_.iov = pieces_;
  op_.iov_count = static_cast<uint32_t>(std::min<size_t>(piece_count_, IOV_MAX));
  op_.length = unmoved_;
  for (size_t i = op_.iov_count; i < piece_count_; ++i) op_.length -= pieces_[i].iov_len;
  has_op_ = true;
  return Step::kOp;
}

/// The next of the request's data, of zeroes if these are written by hand.
iovec Transfer::TakePiece(uint64_t most) {
  if (by_hand_ > 0) return {zero_piece, std::min(most, kZeroPieceBytes)};
  iovec& piece = request_->data[used_up_];
  const iovec taken{piece.iov_base, std::min<uint64_t>(piece.iov_len, most)};
  piece.iov_base = static_cast<std::byte*>(piece.iov_base) + taken.iov_len;
  piece.iov_len -= taken.iov_len;
  if (piece.iov_len == 0) ++used_up_;
  return taken;
}

void Transfer::FillFrom(const Extent& extent) {
  const std::byte* from = extent.bytes.get() + extent.offset;
  for (uint64_t at = 0; at < extent.length;) {
    const iovec piece = TakePiece(extent.length - at);
    if (extent.kind == Extent::Kind::kZero)
      std::memset(piece.iov_base, 0, piece.iov_len);
    else
      std::memcpy(piece.iov_base, from + at, piece.iov_len);
    at += piece.iov_len;
  }
}

Transfer::Step Transfer::Advance(int64_t result) {
  if (result == -EAGAIN || result == -EINTR)
    return ++retries_ <= kRetriesMax ? Step::kOp : Fail(EAGAIN);
  if (result == -EOPNOTSUPP && op_.kind == FileOp::Kind::kZero) return NotSupported();
  if (result < 0) return Fail(static_cast<int>(-result));
  retries_ = 0;
  switch (op_.kind) {
    case FileOp::Kind::kRead:
    case FileOp::Kind::kWrite:
      return Moved(static_cast<uint64_t>(result));
    case FileOp::Kind::kDiscard:
    case FileOp::Kind::kZero:
      return Ended();
    case FileOp::Kind::kSync:
      break;
  }
  return Step::kDone;
}

/// Goes on behind what is done. Nothing done means that the file ends here, or takes no more.
Transfer::Step Transfer::Moved(uint64_t bytes) {
  if (bytes == 0) return Fail(op_.kind == FileOp::Kind::kRead ? ENODATA : ENOSPC);
  unmoved_ -= bytes;
  if (unmoved_ == 0) return Ended();
  op_.offset += bytes;
  for (; bytes >= pieces_->iov_len; ++pieces_, --piece_count_) bytes -= pieces_->iov_len;
  pieces_->iov_base = static_cast<std::byte*>(pieces_->iov_base) + bytes;
  pieces_->iov_len -= bytes;
  return SetOp();
}

Transfer::Step Transfer::Ended() {
  has_op_ = false;
  const int rc = EndPlan(true);
  if (rc < 0) return Fail(-rc);
  Pass();
  return Continue();
}

int Transfer::EndPlan(bool written) {
  if (!std::exchange(writing_, false)) return 0;
  const int rc = disk_->EndWrite(plan_.ticket, written);
  plan_ = {};
  return rc;
}

/// What was planned is done.
void Transfer::Pass() {
  offset_ += planned_;
  left_ -= planned_;
  by_hand_ -= std::min(by_hand_, planned_);
}

/// The host cannot unmap and zero, or cannot zero at all.
Transfer::Step Transfer::NotSupported() {
  has_op_ = false;
  if (!std::exchange(unmap_, false)) by_hand_ = left_;
  return Continue();
}

Transfer::Step Transfer::Fail(int error) {
  error_ = error;
  Drop();
  return Step::kFailed;
}

void Transfer::Drop() {
  has_op_ = false;
  EndPlan(false);
  if (own_pieces_.capacity() > kPiecesKept) own_pieces_ = {};
}

}  // namespace vmm
