#include "../../native/engines/block_request.h"

#include <array>
#include <initializer_list>
#include <string>

#include "check.h"

namespace {

using vmm::BlockLimits;
using vmm::BlockRequest;

constexpr uint64_t kSectors = 100;
constexpr BlockLimits kDisk{kSectors * 512, false, true};
constexpr uint8_t kOk = VIRTIO_BLK_S_OK, kIoErr = VIRTIO_BLK_S_IOERR, kUnsupp = VIRTIO_BLK_S_UNSUPP;

/// A chain over memory of the test's: the pieces of what is readable, then of what is writable.
class Request {
 public:
  Request(uint32_t type, uint64_t sector) : header_{type, 0, sector} {
    Readable(&header_, sizeof(header_));
  }
  Request& Readable(void* at, size_t count) {
    CHECK(chain.readable.push_back({at, count}));
    return *this;
  }
  Request& Writable(void* at, size_t count) {
    CHECK(chain.writable.push_back({at, count}));
    return *this;
  }
  Request& Status() { return Writable(&status_, 1); }
  /// Data of so many bytes, which nobody touches.
  Request& In(size_t count) { return Writable(room_, count); }
  Request& Out(size_t count) { return Readable(room_, count); }

  BlockRequest Parse(const BlockLimits& limits = kDisk) const {
    BlockRequest request;
    vmm::ParseBlockRequest(chain, limits, &request);
    return request;
  }

  vmm::Chain chain{};

 private:
  virtio_blk_outhdr header_;
  uint8_t status_ = 0xee;
  std::byte* room_ = reinterpret_cast<std::byte*>(1 << 20);
};

Request Segment(uint32_t type, const virtio_blk_discard_write_zeroes& segment, uint32_t count = 1) {
  static std::array<virtio_blk_discard_write_zeroes, 2> segments;
  segments = {segment, segment};
  Request request(type, 0);
  request.Readable(segments.data(), count * sizeof(segment)).Status();
  return request;
}

void PiecesOfAnySize() {
  struct {
    virtio_blk_outhdr header;
    std::array<std::byte, 1024> data;
  } readable{{VIRTIO_BLK_T_OUT, 0, 7}, {}};
  auto* bytes = reinterpret_cast<std::byte*>(&readable);
  uint8_t status[3];
  vmm::Chain chain{};
  CHECK(chain.readable.push_back({bytes, 3}) && chain.readable.push_back({bytes + 3, 0}) &&
        chain.readable.push_back({bytes + 3, 14}) && chain.readable.push_back({bytes + 17, 1023}));
  CHECK(chain.writable.push_back({status, 1}) && chain.writable.push_back({status + 1, 0}));

  BlockRequest request;
  vmm::ParseBlockRequest(chain, kDisk, &request);

  CHECK(request.status == kOk && request.kind == BlockRequest::Kind::kWrite);
  CHECK(request.offset_bytes == 7 * 512 && request.length_bytes == 1024);
  CHECK(request.status_at == status && request.room_bytes == 0);
  CHECK(request.data.size() == 2);
  CHECK(request.data[0].iov_base == bytes + 16 && request.data[0].iov_len == 1);
  CHECK(request.data[1].iov_base == bytes + 17 && request.data[1].iov_len == 1023);
}

void StatusIsTheLastByte() {
  std::array<uint8_t, 513> room{};
  const BlockRequest request = Request(VIRTIO_BLK_T_IN, 0).Writable(room.data(), 513).Parse();

  CHECK(request.status == kOk && request.status_at == &room[512]);
  CHECK(request.length_bytes == 512 && request.room_bytes == 512);
  CHECK(request.data.size() == 1 && request.data[0].iov_len == 512);
}

void NoRoomForStatus() {
  CHECK(Request(VIRTIO_BLK_T_OUT, 0).Out(512).Parse().status_at == nullptr);
  CHECK(Request(VIRTIO_BLK_T_OUT, 0).Out(512).In(0).Parse().status_at == nullptr);
}

void ShortHeader() {
  std::array<std::byte, 15> header{};
  vmm::Chain chain{};
  uint8_t status;
  CHECK(chain.readable.push_back({header.data(), header.size()}));
  CHECK(chain.writable.push_back({&status, 1}));
  BlockRequest request;
  vmm::ParseBlockRequest(chain, kDisk, &request);
  CHECK(request.status == kIoErr && request.status_at == &status);
}

void EndOfDisk() {
  const auto in = [](uint64_t sector, size_t bytes) {
    return Request(VIRTIO_BLK_T_IN, sector).In(bytes).Status().Parse().status;
  };
  CHECK(in(kSectors - 1, 512) == kOk);
  CHECK(in(kSectors - 1, 1024) == kIoErr);
  CHECK(in(kSectors, 0) == kOk);
  CHECK(in(kSectors, 512) == kIoErr);
  CHECK(in(kSectors + 1, 0) == kIoErr);
  CHECK(in(uint64_t{1} << 55, 512) == kIoErr);  // times 512, it is zero in 64 bits
  CHECK(in(~uint64_t{0}, 512) == kIoErr);
  CHECK(in(0, 511) == kIoErr && in(0, 513) == kIoErr);
}

/// Each of them would fit, but not all together.
void ManyPiecesAtTheLastSector() {
  Request request(VIRTIO_BLK_T_OUT, kSectors - 1);
  for (int i = 0; i < 100; ++i) request.Out(512);
  CHECK(request.Status().Parse().status == kIoErr);
}

void Segments() {
  const auto discard = [](virtio_blk_discard_write_zeroes segment, uint32_t count = 1) {
    return Segment(VIRTIO_BLK_T_DISCARD, segment, count).Parse().status;
  };
  const auto zero = [](virtio_blk_discard_write_zeroes segment) {
    return Segment(VIRTIO_BLK_T_WRITE_ZEROES, segment).Parse().status;
  };
  CHECK(discard({10, 90, 0}) == kOk && zero({0, 100, 0}) == kOk && zero({0, 100, 1}) == kOk);
  CHECK(discard({10, 91, 0}) == kIoErr && zero({100, 1, 0}) == kIoErr);
  CHECK(discard({10, ~uint32_t{0}, 0}) == kIoErr);
  CHECK(discard({uint64_t{1} << 55, 1, 0}) == kIoErr);
  CHECK(discard({10, 0, 0}) == kOk);
  CHECK(discard({10, 1, 0}, 0) == kIoErr && discard({10, 1, 0}, 2) == kIoErr);
  CHECK(discard({10, 1, 1}) == kUnsupp && discard({10, 1, 2}) == kUnsupp);
  CHECK(zero({10, 1, 2}) == kUnsupp);

  const BlockRequest request = Segment(VIRTIO_BLK_T_WRITE_ZEROES, {10, 20, 1}).Parse();
  CHECK(request.unmap && request.offset_bytes == 10 * 512 && request.length_bytes == 20 * 512);
}

void ReadonlyDisk() {
  constexpr BlockLimits kReadonly{kSectors * 512, true, true};
  CHECK(Request(VIRTIO_BLK_T_IN, 0).In(512).Status().Parse(kReadonly).status == kOk);
  CHECK(Request(VIRTIO_BLK_T_OUT, 0).Out(512).Status().Parse(kReadonly).status == kIoErr);
  CHECK(Segment(VIRTIO_BLK_T_DISCARD, {0, 1, 0}).Parse(kReadonly).status == kIoErr);
  CHECK(Segment(VIRTIO_BLK_T_WRITE_ZEROES, {0, 1, 0}).Parse(kReadonly).status == kIoErr);
}

void NotSupported() {
  constexpr BlockLimits kNoDiscard{kSectors * 512, false, false};
  CHECK(Segment(VIRTIO_BLK_T_DISCARD, {0, 1, 0}).Parse(kNoDiscard).status == kUnsupp);
  CHECK(Segment(VIRTIO_BLK_T_WRITE_ZEROES, {0, 1, 0}).Parse(kNoDiscard).status == kOk);
  for (const uint32_t type : std::initializer_list<uint32_t>{2, 9, 14, 0x80000000, ~0U})
    CHECK(Request(type, 0).Status().Parse().status == kUnsupp);
}

void Id() {
  for (const size_t room : {0, 1, 20, 21}) {
    const BlockRequest request = Request(VIRTIO_BLK_T_GET_ID, 0).In(room).Status().Parse();
    CHECK(request.status == kOk && request.length_bytes == std::min<size_t>(room, 20));
  }
}

}  // namespace

int main() {
  Test("header and data may be cut anywhere", PiecesOfAnySize);
  Test("the status is the last writable byte", StatusIsTheLastByte);
  Test("a chain without room for the status is no request", NoRoomForStatus);
  Test("a header that is cut short fails", ShortHeader);
  Test("what reaches beyond the disk, wraps or is no sector fails", EndOfDisk);
  Test("the sum of the pieces must fit on the disk", ManyPiecesAtTheLastSector);
  Test("discards and zeroes have one segment, on the disk, with known flags", Segments);
  Test("a read-only disk is only read", ReadonlyDisk);
  Test("what is unknown, or off, is not supported", NotSupported);
  Test("an id takes at most 20 bytes", Id);
}
