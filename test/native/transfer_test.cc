#include "../../native/engines/transfer.h"

#include <errno.h>
#include <limits.h>

#include <array>
#include <cstring>
#include <deque>
#include <string>
#include <tuple>
#include <utility>

#include "check.h"
#include "temporary_file.h"

namespace {

using vmm::BlockRequest;
using vmm::DiskImage;
using vmm::DiskRange;
using vmm::Extent;
using vmm::FileOp;
using vmm::Transfer;
using vmm::WritePlan;
using Step = Transfer::Step;

std::array<std::byte, 4096> memory;

BlockRequest Request(BlockRequest::Kind kind, uint64_t length_bytes) {
  BlockRequest request;
  request.kind = kind;
  request.offset_bytes = 1 << 20;
  request.length_bytes = length_bytes;
  return request;
}

/// A disk that is its file.
DiskImage* Raw() {
  static const std::shared_ptr<DiskImage> disk = RawDisk(-1, uint64_t{1} << 40);
  return disk.get();
}

void ShortRead() {
  BlockRequest request = Request(BlockRequest::Kind::kRead, 3072);
  request.data = {
      {memory.data(), 1024}, {memory.data() + 1024, 1024}, {memory.data() + 3000, 1024}};
  Transfer transfer;
  CHECK(transfer.Begin(&request, Raw(), false) == Step::kOp);

  CHECK(transfer.Advance(1500) == Step::kOp);

  const FileOp& op = transfer.op();
  CHECK(op.kind == FileOp::Kind::kRead && op.offset == (1 << 20) + 1500 && op.length == 1572);
  CHECK(op.iov_count == 2 && op.iov[0].iov_base == memory.data() + 1500);
  CHECK(op.iov[0].iov_len == 548 && op.iov[1].iov_len == 1024);
  CHECK(transfer.Advance(548) == Step::kOp);
  CHECK(op.iov_count == 1 && op.iov[0].iov_base == memory.data() + 3000);
  CHECK(transfer.Advance(1024) == Step::kDone);
}

void EndOfFile() {
  BlockRequest request = Request(BlockRequest::Kind::kRead, 1024);
  request.data = {{memory.data(), 1024}};
  Transfer transfer;
  transfer.Begin(&request, Raw(), false);
  CHECK(transfer.Advance(512) == Step::kOp);
  CHECK(transfer.Advance(0) == Step::kFailed && transfer.error() == ENODATA);
}

void Again() {
  BlockRequest request = Request(BlockRequest::Kind::kRead, 1024);
  request.data = {{memory.data(), 1024}};
  Transfer transfer;
  transfer.Begin(&request, Raw(), false);
  for (int i = 0; i < 16; ++i) CHECK(transfer.Advance(i % 2 ? -EAGAIN : -EINTR) == Step::kOp);
  CHECK(transfer.op().length == 1024);
  CHECK(transfer.Advance(-EAGAIN) == Step::kFailed && transfer.error() == EAGAIN);
}

/// Descriptors that overlap ask for more than there is RAM.
void Pieces(BlockRequest::Kind kind) {
  constexpr uint64_t kPiece = 4 << 20, kLength = 3 * kPiece + 512;
  BlockRequest request = Request(kind, kLength);
  std::vector<std::byte> ram(3 << 20);
  request.data.assign(4, {ram.data(), 3 << 20});
  request.data.push_back({ram.data(), 512});
  Transfer transfer;
  CHECK(transfer.Begin(&request, Raw(), true) == Step::kOp);
  const FileOp& op = transfer.op();
  for (uint64_t at = 0; at < 3 * kPiece; at += kPiece) {
    CHECK(op.offset == (1 << 20) + at && op.length == kPiece);
    CHECK(op.iov[0].iov_base == ram.data() + at % (3 << 20) && op.iov_count == 2);
    CHECK(op.iov[0].iov_len + op.iov[1].iov_len == kPiece && op.iov[1].iov_base == ram.data());
    CHECK(transfer.Advance(512) == Step::kOp && transfer.Continue() == Step::kOp);
    CHECK(transfer.Advance(kPiece - 512) == Step::kOp);
  }
  CHECK(op.length == 512 && op.offset == (1 << 20) + 3 * kPiece);
  CHECK(transfer.Advance(512) == Step::kDone);
}

/// What the host does not have: to unmap, then to zero a range.
void ZeroesByHand() {
  constexpr uint64_t kPiece = 4 << 20, kLength = kPiece + 512 * 129;
  BlockRequest request = Request(BlockRequest::Kind::kWriteZeroes, kLength);
  request.unmap = true;
  Transfer transfer;
  transfer.Begin(&request, Raw(), true);
  const FileOp& op = transfer.op();
  CHECK(op.kind == FileOp::Kind::kZero && op.unmap && op.length == kLength);
  CHECK(transfer.Advance(-EOPNOTSUPP) == Step::kOp);
  CHECK(op.kind == FileOp::Kind::kZero && !op.unmap && op.length == kLength);

  CHECK(transfer.Advance(-EOPNOTSUPP) == Step::kOp);

  CHECK(op.kind == FileOp::Kind::kWrite && op.length == kPiece);
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < op.iov_count; ++i) bytes += op.iov[i].iov_len;
  CHECK(bytes == kPiece && static_cast<const char*>(op.iov[0].iov_base)[0] == 0);
  CHECK(transfer.Advance(kPiece - 512) == Step::kOp);
  CHECK(op.length == 512 && transfer.Advance(512) == Step::kOp);
  CHECK(op.offset == (1 << 20) + kPiece && op.length == kLength - kPiece);
  CHECK(op.iov_count == 2 && op.iov[1].iov_len == 512);
  CHECK(transfer.Advance(kLength - kPiece) == Step::kOp && op.kind == FileOp::Kind::kSync);
  CHECK(transfer.Advance(0) == Step::kDone);
}

void LargeRange() {
  constexpr uint64_t kPiece = 64 << 20;
  BlockRequest request = Request(BlockRequest::Kind::kDiscard, kPiece + 512);
  Transfer transfer;
  transfer.Begin(&request, Raw(), false);
  CHECK(transfer.op().length == kPiece && transfer.Advance(0) == Step::kOp);
  CHECK(transfer.op().offset == (1 << 20) + kPiece && transfer.op().length == 512);
  CHECK(transfer.Advance(0) == Step::kDone);
}

void Durable() {
  Transfer transfer;
  BlockRequest write = Request(BlockRequest::Kind::kWrite, 512);
  write.data = {{memory.data(), 512}};
  transfer.Begin(&write, Raw(), true);
  CHECK(transfer.op().durable && transfer.Advance(512) == Step::kDone);

  for (const auto kind : {BlockRequest::Kind::kDiscard, BlockRequest::Kind::kWriteZeroes}) {
    BlockRequest request = Request(kind, 512);
    transfer.Begin(&request, Raw(), true);
    CHECK(transfer.Advance(0) == Step::kOp && transfer.op().kind == FileOp::Kind::kSync);
    CHECK(transfer.Advance(0) == Step::kDone);
    transfer.Begin(&request, Raw(), false);
    CHECK(transfer.Advance(0) == Step::kDone);
  }
}

void Failure() {
  Transfer transfer;
  BlockRequest request = Request(BlockRequest::Kind::kDiscard, 512);
  transfer.Begin(&request, Raw(), true);
  CHECK(transfer.Advance(0) == Step::kOp);
  CHECK(transfer.Advance(-EIO) == Step::kFailed && transfer.error() == EIO);
}

/// Says what the test has it say, and notes what it is asked. Each plan is asked for once.
struct FakeImage final : vmm::Image {
  uint64_t size_bytes() const override { return uint64_t{1} << 40; }
  int Read(DiskRange range, Extent* out) override {
    Note("read", range);
    *out = extents.front();
    extents.pop_front();
    return read_rc;
  }
  int BeginWrite(DiskRange range, WritePlan* out) override {
    Note("begin", range);
    if (write_rc < 0) return write_rc;
    *out = plans.front();
    plans.pop_front();
    return 0;
  }
  int EndWrite(uint64_t ticket, bool written) override {
    asked.push_back("end " + std::to_string(ticket) + (written ? " written" : " failed"));
    return end_rc;
  }
  int Discard(DiskRange range) override { return Note("discard", range), write_rc; }
  int Zero(DiskRange range, bool unmap, uint64_t* done, uint64_t* by_hand) override {
    Note(unmap ? "unmap" : "zero", range);
    std::tie(*done, *by_hand) = zeroed;
    return write_rc;
  }
  int Flush() override { return asked.push_back("flush"), flush_rc; }

  void Note(const std::string& what, DiskRange range) {
    asked.push_back(what + " " + std::to_string(range.offset - (1 << 20)) + "+" +
                    std::to_string(range.length));
  }

  std::deque<Extent> extents;
  std::deque<WritePlan> plans;
  std::pair<uint64_t, uint64_t> zeroed;
  int read_rc = 0, write_rc = 0, end_rc = 0, flush_rc = 0;
  std::vector<std::string> asked;
};

/// A disk over FakeImage, and one request of it.
struct Fake {
  explicit Fake(BlockRequest::Kind kind, uint64_t length_bytes)
      : request(Request(kind, length_bytes)), ram(length_bytes, std::byte{0x11}) {
    if (kind == BlockRequest::Kind::kRead || kind == BlockRequest::Kind::kWrite)
      request.data = {{ram.data(), 1000}, {ram.data() + 1000, length_bytes - 1000}};
  }
  Step Begin(bool durable = false) { return transfer.Begin(&request, &disk, durable); }
  bool Holds(uint64_t offset, uint64_t length, int value) const {
    return std::all_of(&ram[offset], &ram[offset] + length,
                       [value](std::byte b) { return b == std::byte(value); });
  }
  using Asked = std::vector<std::string>;

  BlockRequest request;
  std::vector<std::byte> ram;
  FakeImage* image = new FakeImage;
  DiskImage disk{{{-1}, {-1}}, uint64_t{1} << 40, std::unique_ptr<vmm::Image>(image)};
  Transfer transfer;
};

void ReadsExtents() {
  Fake fake(BlockRequest::Kind::kRead, 4096);
  const std::shared_ptr<std::byte[]> bytes(new std::byte[2048]);
  std::memset(bytes.get(), 0x22, 2048);
  fake.image->extents = {{Extent::Kind::kZero, 0, 0, 1024, nullptr},
                         {Extent::Kind::kFile, 1, 7777, 1024, nullptr},
                         {Extent::Kind::kBytes, 0, 1024, 1024, bytes},
                         {Extent::Kind::kFile, 0, 9000, 1024, nullptr}};

  CHECK(fake.Begin() == Step::kOp);

  const FileOp& op = fake.transfer.op();
  CHECK(fake.Holds(0, 1024, 0) && fake.Holds(1024, 3072, 0x11));
  CHECK(op.file == 1 && op.offset == 7777 && op.length == 1024 && op.iov_count == 1);
  CHECK(op.iov[0].iov_base == &fake.ram[1024]);
  CHECK(fake.transfer.Advance(1000) == Step::kOp && op.offset == 8777 && op.length == 24);
  CHECK(fake.transfer.Advance(24) == Step::kOp);
  CHECK(fake.Holds(1024, 1024, 0x11) && fake.Holds(2048, 1024, 0x22));
  CHECK(op.file == 0 && op.offset == 9000 && op.iov[0].iov_base == &fake.ram[3072]);
  CHECK(fake.transfer.Advance(1024) == Step::kDone);
  CHECK(fake.image->asked ==
        (Fake::Asked{"read 0+4096", "read 1024+3072", "read 2048+2048", "read 3072+1024"}));
}

void ReadsMuchFromMemory() {
  constexpr uint64_t kPiece = 4 << 20;
  Fake fake(BlockRequest::Kind::kRead, kPiece + 512);
  fake.image->extents = {{Extent::Kind::kZero, 0, 0, kPiece, nullptr},
                         {Extent::Kind::kZero, 0, 0, 512, nullptr}};

  CHECK(fake.Begin() == Step::kYield);
  CHECK(fake.transfer.Continue() == Step::kDone && fake.Holds(0, kPiece + 512, 0));
}

void FailedRead() {
  Fake fake(BlockRequest::Kind::kRead, 4096);
  fake.image->extents = {{}};
  fake.image->read_rc = -EIO;
  CHECK(fake.Begin() == Step::kFailed && fake.transfer.error() == EIO);
  CHECK(fake.transfer.op().offset == 1 << 20 && fake.transfer.op().length == 4096);
}

/// The bytes that an operation writes, as they lie in memory.
std::string Written(const FileOp& op) {
  std::string all;
  for (uint32_t i = 0; i < op.iov_count; ++i)
    all.append(static_cast<const char*>(op.iov[i].iov_base), op.iov[i].iov_len);
  CHECK(all.size() == op.length);
  return all;
}

void WritesWithSurroundings() {
  Fake fake(BlockRequest::Kind::kWrite, 4096);
  const auto some = [](size_t count, int value) {
    return std::vector<std::byte>(count, std::byte(value));
  };
  fake.image->plans = {{5000, 3000, some(512, 0xb), some(256, 0xa), 7}, {90000, 1096, {}, {}, 8}};

  CHECK(fake.Begin() == Step::kOp);
  const FileOp& op = fake.transfer.op();
  CHECK(op.file == 0 && op.offset == 5000);
  CHECK(Written(op) == std::string(512, 0xb) + std::string(3000, 0x11) + std::string(256, 0xa));
  CHECK(fake.transfer.Advance(700) == Step::kOp && op.offset == 5700);
  CHECK(Written(op) == std::string(3000 - 188, 0x11) + std::string(256, 0xa));
  CHECK(fake.image->asked == (Fake::Asked{"begin 0+4096"}));

  CHECK(fake.transfer.Advance(3068) == Step::kOp);
  CHECK(op.offset == 90000 && Written(op) == std::string(1096, 0x11));
  CHECK(op.iov[0].iov_base == &fake.ram[3000] && !op.durable);
  CHECK(fake.transfer.Advance(1096) == Step::kDone);
  CHECK(fake.image->asked ==
        (Fake::Asked{"begin 0+4096", "end 7 written", "begin 3000+1096", "end 8 written"}));
}

/// With what surrounds it, a write may have more pieces than one pwritev takes.
void ManyPieces() {
  Fake fake(BlockRequest::Kind::kWrite, 1024 * 512);
  fake.request.data.clear();
  for (size_t at = 0; at < fake.ram.size(); at += 512)
    fake.request.data.push_back({&fake.ram[at], 512});
  fake.image->plans = {{0, 1024 * 512, std::vector<std::byte>(8), std::vector<std::byte>(8), 7}};

  CHECK(fake.Begin() == Step::kOp);
  const FileOp& op = fake.transfer.op();
  CHECK(op.iov_count == IOV_MAX && Written(op).size() == 8 + 1023 * 512);
  CHECK(fake.transfer.Advance(8 + 1023 * 512) == Step::kOp);
  CHECK(op.iov_count == 2 && Written(op).size() == 512 + 8 && op.offset == 8 + 1023 * 512);
  CHECK(fake.transfer.Advance(520) == Step::kDone);
}

void FailedWrite() {
  for (const bool dropped : {false, true}) {
    Fake fake(BlockRequest::Kind::kWrite, 4096);
    fake.image->plans = {{0, 4096, {}, {}, 7}};
    CHECK(fake.Begin() == Step::kOp);
    if (dropped)
      fake.transfer.Drop();
    else
      CHECK(fake.transfer.Advance(-ENOSPC) == Step::kFailed && fake.transfer.error() == ENOSPC);
    CHECK(fake.image->asked.back() == "end 7 failed");
    fake.transfer.Drop();
    CHECK(fake.image->asked.size() == 2);
  }
}

void UnaccountedWrite() {
  Fake fake(BlockRequest::Kind::kWrite, 4096);
  fake.image->plans = {{0, 4096, {}, {}, 7}};
  fake.image->end_rc = -EIO;
  fake.Begin();
  CHECK(fake.transfer.Advance(4096) == Step::kFailed && fake.transfer.error() == EIO);
}

void Busy() {
  Fake fake(BlockRequest::Kind::kWrite, 4096);
  fake.image->plans = {{0, 4096, {}, {}, 7}};
  fake.image->write_rc = -EBUSY;
  CHECK(fake.Begin() == Step::kBusy && fake.transfer.Continue() == Step::kBusy);
  fake.image->write_rc = 0;
  CHECK(fake.transfer.Continue() == Step::kOp);

  for (const auto kind : {BlockRequest::Kind::kDiscard, BlockRequest::Kind::kWriteZeroes}) {
    Fake range(kind, 512);
    range.image->write_rc = -EBUSY;
    CHECK(range.Begin() == Step::kBusy);
  }
}

void WakesWhoWaits() {
  Fake fake(BlockRequest::Kind::kWrite, 4096);
  fake.image->plans = {{0, 4096, {}, {}, 7}};
  const auto kick = std::make_shared<vmm::EventFd>();
  CHECK(fake.Begin() == Step::kOp);
  fake.disk.AwaitWrite(kick);
  CHECK(!kick->Take());
  CHECK(fake.transfer.Advance(4096) == Step::kDone && kick->Take());
}

void SyncsAnImage() {
  Fake flush(BlockRequest::Kind::kFlush, 0);
  CHECK(flush.Begin() == Step::kOp && flush.transfer.op().kind == FileOp::Kind::kSync);
  CHECK(flush.image->asked == Fake::Asked{"flush"});
  CHECK(flush.transfer.Advance(0) == Step::kDone);

  Fake write(BlockRequest::Kind::kWrite, 4096);
  write.image->plans = {{0, 4096, {}, {}, 7}};
  CHECK(write.Begin(true) == Step::kOp && !write.transfer.op().durable);
  CHECK(write.transfer.Advance(4096) == Step::kOp);
  CHECK(write.image->asked == (Fake::Asked{"begin 0+4096", "end 7 written", "flush"}));
  CHECK(write.transfer.op().kind == FileOp::Kind::kSync);
  CHECK(write.transfer.Advance(0) == Step::kDone);

  Fake bad(BlockRequest::Kind::kFlush, 0);
  bad.image->flush_rc = -ENOSPC;
  CHECK(bad.Begin() == Step::kFailed && bad.transfer.error() == ENOSPC);
}

void DiscardsOfAnImage() {
  Fake fake(BlockRequest::Kind::kDiscard, 4096);
  CHECK(fake.Begin(true) == Step::kYield);
  CHECK(fake.transfer.Continue() == Step::kOp && fake.transfer.op().kind == FileOp::Kind::kSync);
  CHECK(fake.image->asked == (Fake::Asked{"discard 0+4096", "flush"}));

  Fake cannot(BlockRequest::Kind::kDiscard, 4096);
  cannot.image->write_rc = -EOPNOTSUPP;
  CHECK(cannot.Begin() == Step::kFailed && cannot.transfer.error() == EOPNOTSUPP);
}

/// Half of it by the tables, the rest as data.
void ZeroesOfAnImage() {
  Fake fake(BlockRequest::Kind::kWriteZeroes, 4096);
  fake.request.unmap = true;
  fake.image->zeroed = {2048, 0};
  CHECK(fake.Begin() == Step::kYield);
  fake.image->zeroed = {0, 1024};
  CHECK(fake.transfer.Continue() == Step::kYield);
  fake.image->plans = {{4000, 1024, {}, {}, 7}};

  CHECK(fake.transfer.Continue() == Step::kOp);
  CHECK(Written(fake.transfer.op()) == std::string(1024, 0) && fake.transfer.op().offset == 4000);
  fake.image->zeroed = {1024, 0};
  CHECK(fake.transfer.Advance(1024) == Step::kYield);
  CHECK(fake.transfer.Continue() == Step::kDone);
  CHECK(fake.image->asked == (Fake::Asked{"unmap 0+4096", "unmap 2048+2048", "begin 2048+1024",
                                          "end 7 written", "unmap 3072+1024"}));
}

}  // namespace

int main() {
  Test("a read that was cut short goes on behind it, in the middle of a piece", ShortRead);
  Test("a file that ends within a read fails it", EndOfFile);
  Test("an interrupted operation is tried again, but not for ever", Again);
  Test("a large read is moved 4 MiB at a time", [] { Pieces(BlockRequest::Kind::kRead); });
  Test("and so is a large write", [] { Pieces(BlockRequest::Kind::kWrite); });
  Test("a large range is discarded 64 MiB at a time", LargeRange);
  Test("zeroes are written where the host cannot zero a range", ZeroesByHand);
  Test("a durable change is one with the data on stable storage", Durable);
  Test("an error of the last step fails the whole", Failure);
  Test("a read of an image goes from extent to extent, and to the right file", ReadsExtents);
  Test("what is read from memory alone lets others have a look every 4 MiB", ReadsMuchFromMemory);
  Test("what an image cannot find fails the read, by its place on the disk", FailedRead);
  Test("a write takes along what surrounds it, and goes on when cut short", WritesWithSurroundings);
  Test("no operation has more pieces than the host takes", ManyPieces);
  Test("a plan ends once, also if the write failed or was given up", FailedWrite);
  Test("a write that the image could not keep account of fails", UnaccountedWrite);
  Test("what another write is in the way of waits", Busy);
  Test("the end of a write wakes up who waits", WakesWhoWaits);
  Test("a flush, and a durable write, put the tables before the sync", SyncsAnImage);
  Test("an image discards by itself, or not at all", DiscardsOfAnImage);
  Test("an image zeroes what it can, and the rest is written as data", ZeroesOfAnImage);
}
