#include "../../native/engines/transfer.h"

#include <errno.h>

#include <array>

#include "check.h"

namespace {

using vmm::BlockRequest;
using vmm::FileOp;
using vmm::Transfer;
using Step = Transfer::Step;

std::array<std::byte, 4096> memory;

BlockRequest Request(BlockRequest::Kind kind, uint64_t length_bytes) {
  BlockRequest request;
  request.kind = kind;
  request.offset_bytes = 1 << 20;
  request.length_bytes = length_bytes;
  return request;
}

void ShortRead() {
  BlockRequest request = Request(BlockRequest::Kind::kRead, 3072);
  request.data = {
      {memory.data(), 1024}, {memory.data() + 1024, 1024}, {memory.data() + 3000, 1024}};
  Transfer transfer;
  transfer.Begin(&request, false);

  CHECK(transfer.Advance(1500) == Step::kNext);

  const FileOp& op = transfer.op();
  CHECK(op.kind == FileOp::Kind::kRead && op.offset == (1 << 20) + 1500 && op.length == 1572);
  CHECK(op.iov_count == 2 && op.iov[0].iov_base == memory.data() + 1500);
  CHECK(op.iov[0].iov_len == 548 && op.iov[1].iov_len == 1024);
  CHECK(transfer.Advance(548) == Step::kNext);
  CHECK(op.iov_count == 1 && op.iov[0].iov_base == memory.data() + 3000);
  CHECK(transfer.Advance(1024) == Step::kDone);
}

void EndOfFile() {
  BlockRequest request = Request(BlockRequest::Kind::kRead, 1024);
  request.data = {{memory.data(), 1024}};
  Transfer transfer;
  transfer.Begin(&request, false);
  CHECK(transfer.Advance(512) == Step::kNext);
  CHECK(transfer.Advance(0) == Step::kFailed && transfer.error() == ENODATA);
}

void Again() {
  BlockRequest request = Request(BlockRequest::Kind::kRead, 1024);
  request.data = {{memory.data(), 1024}};
  Transfer transfer;
  transfer.Begin(&request, false);
  for (int i = 0; i < 16; ++i) CHECK(transfer.Advance(i % 2 ? -EAGAIN : -EINTR) == Step::kNext);
  CHECK(transfer.op().length == 1024);
  CHECK(transfer.Advance(-EAGAIN) == Step::kFailed && transfer.error() == EAGAIN);
}

/// What the host does not have: to unmap, then to zero a range.
void ZeroesByHand() {
  constexpr uint64_t kPiece = 1 << 20, kLength = kPiece + 512 * 129;
  BlockRequest request = Request(BlockRequest::Kind::kWriteZeroes, kLength);
  request.unmap = true;
  Transfer transfer;
  transfer.Begin(&request, true);
  const FileOp& op = transfer.op();
  CHECK(op.kind == FileOp::Kind::kZero && op.unmap && op.length == kLength);
  CHECK(transfer.Advance(-EOPNOTSUPP) == Step::kNext);
  CHECK(op.kind == FileOp::Kind::kZero && !op.unmap && op.length == kLength);

  CHECK(transfer.Advance(-EOPNOTSUPP) == Step::kNext);

  CHECK(op.kind == FileOp::Kind::kWrite && op.durable && op.length == kPiece);
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < op.iov_count; ++i) bytes += op.iov[i].iov_len;
  CHECK(bytes == kPiece && static_cast<const char*>(op.iov[0].iov_base)[0] == 0);
  CHECK(transfer.Advance(kPiece - 512) == Step::kNext);
  CHECK(op.length == 512 && transfer.Advance(512) == Step::kNext);
  CHECK(op.offset == (1 << 20) + kPiece && op.length == kLength - kPiece);
  CHECK(op.iov_count == 2 && op.iov[1].iov_len == 512);
  CHECK(transfer.Advance(kLength - kPiece) == Step::kDone);
}

void TooMuchToZero() {
  constexpr uint64_t kMost = 64 << 20;
  Transfer transfer;
  BlockRequest most = Request(BlockRequest::Kind::kWriteZeroes, kMost);
  transfer.Begin(&most, false);
  CHECK(transfer.Advance(-EOPNOTSUPP) == Step::kNext);

  BlockRequest more = Request(BlockRequest::Kind::kWriteZeroes, kMost + 512);
  transfer.Begin(&more, false);
  CHECK(transfer.Advance(-EOPNOTSUPP) == Step::kFailed && transfer.error() == EOPNOTSUPP);
}

void Durable() {
  Transfer transfer;
  BlockRequest write = Request(BlockRequest::Kind::kWrite, 512);
  write.data = {{memory.data(), 512}};
  transfer.Begin(&write, true);
  CHECK(transfer.op().durable && transfer.Advance(512) == Step::kDone);

  for (const auto kind : {BlockRequest::Kind::kDiscard, BlockRequest::Kind::kWriteZeroes}) {
    BlockRequest request = Request(kind, 512);
    transfer.Begin(&request, true);
    CHECK(transfer.Advance(0) == Step::kNext && transfer.op().kind == FileOp::Kind::kSync);
    CHECK(transfer.Advance(0) == Step::kDone);
    transfer.Begin(&request, false);
    CHECK(transfer.Advance(0) == Step::kDone);
  }
}

void Failure() {
  Transfer transfer;
  BlockRequest request = Request(BlockRequest::Kind::kDiscard, 512);
  transfer.Begin(&request, true);
  CHECK(transfer.Advance(0) == Step::kNext);
  CHECK(transfer.Advance(-EIO) == Step::kFailed && transfer.error() == EIO);
}

}  // namespace

int main() {
  Test("a read that was cut short goes on behind it, in the middle of a piece", ShortRead);
  Test("a file that ends within a read fails it", EndOfFile);
  Test("an interrupted operation is tried again, but not for ever", Again);
  Test("zeroes are written where the host cannot zero a range", ZeroesByHand);
  Test("but not more than a shutdown can wait for", TooMuchToZero);
  Test("a durable change is one with the data on stable storage", Durable);
  Test("an error of the last step fails the whole", Failure);
}
