/// Fuzz target: requests of a disk. Whatever the driver writes and however it cuts it, a request
/// that passes lies on the disk and in its chain, and is carried out within its range, however the
/// host answers.

#include <errno.h>
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cstdlib>

#include "../../native/engines/transfer.h"

#define HOLDS(condition) \
  if (!(condition)) abort()

namespace {

constexpr size_t kRoomBytes = 8192;
constexpr uint64_t kPlenty = uint64_t{4} << 30;  // no chain has more
using Kind = vmm::BlockRequest::Kind;

/// Half of it is the driver's to read, half of it the device's to write.
struct Room {
  std::byte readable[kRoomBytes], writable[kRoomBytes];
};

/// Cuts what begins at `base` into pieces.
void Cut(FuzzedDataProvider* input, std::byte* base, vmm::Segments* out) {
  size_t at = 0;
  while (at < kRoomBytes && input->ConsumeIntegralInRange<int>(0, 7) > 0) {
    const size_t usual = input->PickValueInArray<size_t>({0, 1, 15, 16, 512, 1024, 4096});
    const size_t part = input->ConsumeBool() ? usual : input->ConsumeIntegral<uint16_t>();
    const size_t count = std::min(part, kRoomBytes - at);
    if (!out->push_back({base + at, count})) return;
    at += count;
  }
}

uint64_t DrawSector(FuzzedDataProvider* input, uint64_t sectors) {
  if (input->ConsumeBool()) return input->ConsumeIntegral<uint64_t>();
  return input->ConsumeIntegralInRange<uint64_t>(0, sectors + 1);
}

bool Within(const iovec& piece, const std::byte* base) {
  const auto* at = static_cast<const std::byte*>(piece.iov_base);
  return piece.iov_len > 0 && at >= base &&
         at + piece.iov_len <= base + static_cast<ptrdiff_t>(kRoomBytes);
}

uint64_t Total(const iovec* pieces, size_t count) {
  uint64_t total = 0;
  for (size_t i = 0; i < count; ++i) total += pieces[i].iov_len;
  return total;
}

void CheckRequest(const vmm::BlockRequest& request, const vmm::BlockLimits& limits,
                  const Room& room) {
  const auto* status_at = reinterpret_cast<const std::byte*>(request.status_at);
  HOLDS(status_at >= room.writable && status_at < room.writable + kRoomBytes);
  if (request.status != VIRTIO_BLK_S_OK) return;
  const bool reads = request.kind == Kind::kRead || request.kind == Kind::kGetId;
  const bool changes = request.kind == Kind::kWrite || request.kind == Kind::kDiscard ||
                       request.kind == Kind::kWriteZeroes;
  HOLDS(!changes || !limits.readonly);
  HOLDS(request.kind != Kind::kDiscard || limits.discard);
  for (const iovec& piece : request.data) {
    HOLDS(Within(piece, reads ? room.writable : room.readable));
    HOLDS(!reads || static_cast<std::byte*>(piece.iov_base) + piece.iov_len <= status_at);
  }
  if (reads || request.kind == Kind::kWrite)
    HOLDS(Total(request.data.data(), request.data.size()) == request.length_bytes);
  if (request.kind == Kind::kFlush || request.kind == Kind::kGetId) return;
  HOLDS(request.offset_bytes % 512 == 0 && request.length_bytes % 512 == 0);
  HOLDS(request.offset_bytes <= limits.size_bytes);
  HOLDS(request.length_bytes <= limits.size_bytes - request.offset_bytes);
}

void CarryOut(FuzzedDataProvider* input, uint64_t size_bytes, vmm::BlockRequest request) {
  const uint64_t begin = request.offset_bytes;
  const uint64_t end = begin + request.length_bytes;
  if (request.length_bytes == 0) return;
  vmm::DiskImage disk({vmm::File()}, size_bytes);
  vmm::Transfer transfer;
  vmm::Transfer::Step step = transfer.Begin(&request, &disk, input->ConsumeBool());
  while (step == vmm::Transfer::Step::kOp) {
    const vmm::FileOp& op = transfer.op();
    HOLDS(op.kind == vmm::FileOp::Kind::kSync || (op.offset >= begin && op.offset < end));
    HOLDS(op.kind == vmm::FileOp::Kind::kSync || op.length <= end - op.offset);
    const bool moves = op.kind == vmm::FileOp::Kind::kRead || op.kind == vmm::FileOp::Kind::kWrite;
    if (moves) HOLDS(op.iov_count <= 1024 && Total(op.iov, op.iov_count) == op.length);
    const int64_t failed = input->PickValueInArray({EAGAIN, EINTR, EIO, EOPNOTSUPP, ENOSPC});
    const bool fails = input->ConsumeIntegralInRange<int>(0, 7) == 7;
    const uint64_t moved =
        moves ? input->ConsumeIntegralInRange<uint64_t>(0, std::min(op.length, kPlenty)) : 0;
    step = transfer.Advance(fails ? -failed : static_cast<int64_t>(moved));
  }
  HOLDS(step == vmm::Transfer::Step::kDone || step == vmm::Transfer::Step::kFailed);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  static Room room;
  vmm::BlockLimits limits;
  const uint64_t sectors = input.ConsumeIntegralInRange<uint64_t>(0, uint64_t{1} << 54);
  limits.size_bytes = (input.ConsumeBool() ? 64 : sectors) * 512;
  limits.readonly = input.ConsumeIntegralInRange<int>(0, 7) == 7;
  limits.discard = input.ConsumeIntegralInRange<int>(0, 7) > 0;

  const uint32_t type = input.ConsumeIntegralInRange<uint32_t>(0, 15);
  const virtio_blk_outhdr header{type, 0, DrawSector(&input, limits.size_bytes / 512)};
  const virtio_blk_discard_write_zeroes segment{DrawSector(&input, limits.size_bytes / 512),
                                                input.ConsumeIntegral<uint32_t>(),
                                                input.ConsumeIntegralInRange<uint32_t>(0, 3)};
  std::memcpy(room.readable, &header, sizeof(header));
  std::memcpy(room.readable + sizeof(header), &segment, sizeof(segment));
  static vmm::Chain chain;
  chain.readable.count = chain.writable.count = 0;
  Cut(&input, room.readable, &chain.readable);
  Cut(&input, room.writable, &chain.writable);

  vmm::BlockRequest request;
  vmm::ParseBlockRequest(chain, limits, &request);
  if (request.status_at == nullptr) return 0;
  CheckRequest(request, limits, room);
  if (request.status == VIRTIO_BLK_S_OK) CarryOut(&input, limits.size_bytes, request);
  return 0;
}
