#include "block_queue.h"

#include <errno.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "../base/clock.h"

namespace vmm {
namespace {

/// Errors within this time of the one that was reported are of the same burst.
constexpr int64_t kBurstMs = 10'000;

/// A request of more pieces than this is rare, and gives back the room that they took.
constexpr size_t kPiecesKept = 256;

/// A pause, a reset and a shutdown wait for what is under way, and so for little more than this. An
/// image may have whole clusters written for requests of 512 bytes: they count, and lie in memory.
constexpr uint64_t kMovingBytesMax = 64 << 20;

/// With more than so many at a time, batches are what makes it fast.
constexpr uint32_t kQuickMax = 4;

/// The serial, ended by a zero byte only where it is shorter than the room. §5.2.6.
void CopySerial(const std::string& serial, const std::vector<iovec>& room) {
  size_t at = 0;
  for (const iovec& piece : room) {
    const size_t part = std::min(piece.iov_len, serial.size() - at);
    std::memcpy(piece.iov_base, serial.data() + at, part);
    std::memset(static_cast<std::byte*>(piece.iov_base) + part, 0, piece.iov_len - part);
    at += part;
  }
}

/// What a limit of bytes is about.
uint64_t DataBytes(const BlockRequest& request) {
  const bool moves =
      request.kind == BlockRequest::Kind::kRead || request.kind == BlockRequest::Kind::kWrite;
  return moves ? request.length_bytes : 0;
}

/// How many bytes were written, counted without a gap from the first that may be. §2.7.8.2.
uint32_t Written(const BlockRequest& request, uint8_t status) {
  const bool fills =
      request.kind == BlockRequest::Kind::kRead || request.kind == BlockRequest::Kind::kGetId;
  const uint64_t filled = fills && status == VIRTIO_BLK_S_OK ? request.length_bytes : 0;
  return static_cast<uint32_t>(filled + (filled == request.room_bytes ? 1 : 0));
}

const char* Verb(FileOp::Kind kind) {
  switch (kind) {
    case FileOp::Kind::kRead:
      return "read";
    case FileOp::Kind::kWrite:
      return "write";
    case FileOp::Kind::kSync:
      return "flush";
    case FileOp::Kind::kDiscard:
      return "discard";
    case FileOp::Kind::kZero:
      return "zero";
  }
  return "";
}

}  // namespace

BlockQueue::BlockQueue(EngineQueue queue, std::shared_ptr<BlockDisk> disk, OpenIo open_io,
                       size_t number)
    : queue_(std::move(queue)),
      disk_(std::move(disk)),
      open_io_(std::move(open_io)),
      counters_(disk_->counters->ForQueue(number)),
      slots_(queue_.queue->size()) {
  for (uint32_t i = queue_.queue->size(); i > 0; --i) free_.push_back(i - 1);
  done_.reserve(slots_.size());
}

/// What waits is given up: the driver has reset the device, or is no more.
BlockQueue::~BlockQueue() {
  for (const uint32_t slot : waiting_) slots_[slot].transfer.Drop();
}

void BlockQueue::Serve(const std::atomic<bool>& leave) {
  leave_ = &leave;
  if (io_ == nullptr) io_ = open_io_(queue_.queue->size());
  while (ServeBatch(leave)) {
  }
  queue_.queue->LetGo();
}

/// One round: takes what the driver has made available, starts it and what goes on, and completes
/// what is done. Sleeps only if there is nothing else. False when it is time to leave.
bool BlockQueue::ServeBatch(const std::atomic<bool>& leave) {
  // Once a round: when it changes later, there is a kick, too, and nothing is slept over.
  const bool leaving = leave.load();
  if (held_.has_value()) leaving ? GiveBackHeld() : BeginHeld();
  if (!leaving) TakeChains(leave);
  if (IsIdle() && !broken_ && !leaving) PollForChain(leave);
  if (!leaving) TryWaiting();
  const bool serves = !broken_ && !leaving;
  if (!serves && IsIdle()) return false;
  // While looking pays, the driver need not kick, and most requests are done as soon as started.
  const bool quick = serves && started_ > 0 && started_ <= kQuickMax && busy_poll_.on();
  // What is left in a ring that we have no room for is taken when something is done.
  const bool more = serves && !quick && HasRoom() && queue_.queue->EnableKicks();
  started_ = 0;
  const Until turn = held_.has_value() ? Until{turn_ns_} : kForever;
  io_->Run(quick || more ? kNoSleep : turn, &done_);
  now_ns_ = 0;
  finished_ = static_cast<uint32_t>(done_.size());
  for (const FileIo::Done& done : done_)
    GoOn(done.tag, slots_[done.tag].transfer.Advance(done.result));
  done_.clear();
  Publish();
  return true;
}

/// The next chain may come soon, if the last came one at a time.
void BlockQueue::PollForChain(const std::atomic<bool>& leave) {
  if (finished_ == 0 || finished_ > kQuickMax) return;
  finished_ = 0;
  if (!busy_poll_.on()) return busy_poll_.Skip();
  now_ns_ = 0;
  busy_poll_.Try([&] { return TakeChain() || broken_ || leave.load(); });
  Publish();  // what needed no I/O
}

/// A round takes no more than the queue holds, or a driver that never stops would not let it end.
void BlockQueue::TakeChains(const std::atomic<bool>& leave) {
  if (broken_) return;
  if (!queue_.queue->Begin()) return Break();
  queue_.queue->DisableKicks();
  for (size_t round = slots_.size(); round > 0 && HasRoom() && !leave.load(); --round)
    if (!TakeChain()) break;
  Publish();  // what needed no I/O
}

bool BlockQueue::HasRoom() const { return moving_bytes_ < kMovingBytesMax && !held_.has_value(); }

/// False if there is none, or the queue is broken.
bool BlockQueue::TakeChain() {
  uint16_t head = 0;
  const Queue::Taken taken = queue_.queue->Take(&chain_, &head);
  if (taken == Queue::Taken::kBroken) Break();
  if (taken != Queue::Taken::kChain) return false;
  const uint32_t slot = free_.back();  // there is one: no head is in flight twice
  free_.pop_back();
  slots_[slot].head = head;
  Start(slot);
  return true;
}

void BlockQueue::Break() {
  broken_ = true;
  if (queue_.on_broken) queue_.on_broken(queue_.queue->fault());
}

void BlockQueue::Start(uint32_t index) {
  Slot& slot = slots_[index];
  slot.regions = queue_.queue->regions();
  BlockLimits limits = disk_->limits;
  limits.size_bytes = disk_->image->size_bytes();
  ParseBlockRequest(chain_, limits, &slot.request);
  const BlockRequest& request = slot.request;
  const bool get_id = request.kind == BlockRequest::Kind::kGetId;
  const bool flush = request.kind == BlockRequest::Kind::kFlush;
  if (request.status != VIRTIO_BLK_S_OK || request.status_at == nullptr || get_id ||
      (flush && disk_->limits.readonly) || (!flush && request.length_bytes == 0)) {
    if (get_id && request.status == VIRTIO_BLK_S_OK) CopySerial(disk_->serial, request.data);
    Answer(&slot, request.status);
    return;
  }
  if (!MayWrite(&slot)) return Answer(&slot, VIRTIO_BLK_S_IOERR);
  if (disk_->limiter == nullptr || !MustWait(index)) Begin(index);
}

/// True if its turn is yet to come.
bool BlockQueue::MustWait(uint32_t index) {
  turn_ns_ = disk_->limiter->Take(DataBytes(slots_[index].request), NowNs());
  if (turn_ns_ <= NowNs()) return false;
  held_ = index;
  return true;
}

void BlockQueue::BeginHeld() {
  if (turn_ns_ <= NowNs()) Begin(*std::exchange(held_, std::nullopt));
}

/// To the ring, as if it had not been taken: nothing is in flight while a device is paused.
void BlockQueue::GiveBackHeld() {
  Slot& slot = slots_[*std::exchange(held_, std::nullopt)];
  queue_.queue->GiveBack({&slot.head, 1});
  disk_->limiter->GiveBack(DataBytes(slot.request));
  Free(&slot);
}

void BlockQueue::Begin(uint32_t index) {
  Slot& slot = slots_[index];
  const BlockRequest& request = slot.request;
  ++started_;
  slot.begun_ns = NowNs();
  Charge(&slot, Transfer::StepBytes(request));
  GoOn(index, slot.transfer.Begin(&slot.request, disk_->image.get(), !disk_->writeback.load()));
}

/// The most that was under way for it counts until it is done.
void BlockQueue::Charge(Slot* slot, uint64_t moving_bytes) {
  const uint64_t more = moving_bytes - std::min(moving_bytes, slot->moving_bytes);
  slot->moving_bytes += more;
  moving_bytes_ += more;
}

bool BlockQueue::MayWrite(Slot* slot) const {
  const BlockRequest& request = slot->request;
  if (!disk_->keep_raw || request.kind != BlockRequest::Kind::kWrite || request.offset_bytes != 0)
    return true;
  slot->first_sector = std::make_unique<FirstSector>();
  return slot->first_sector->Take(&slot->request);
}

/// Has a request go on, or wait: who is to leave begins nothing any more.
void BlockQueue::GoOn(uint32_t index, Transfer::Step step) {
  Slot& slot = slots_[index];
  while (step == Transfer::Step::kYield && !leave_->load()) step = slot.transfer.Continue();
  switch (step) {
    case Transfer::Step::kOp:
      Charge(&slot, Transfer::StepBytes(slot.request) + slot.transfer.surround_bytes());
      if (!leave_->load()) return io_->Submit(slot.transfer.op(), index);
      [[fallthrough]];
    case Transfer::Step::kYield:
    case Transfer::Step::kBusy:
      return waiting_.push_back(index);
    case Transfer::Step::kDone:
      Count(slot);
      return Answer(&slot, VIRTIO_BLK_S_OK);
    case Transfer::Step::kFailed:
      break;
  }
  const FileOp::Kind kind = slot.transfer.op().kind;
  const bool optional = kind == FileOp::Kind::kDiscard || kind == FileOp::Kind::kZero;
  if (optional && slot.transfer.error() == EOPNOTSUPP) return Answer(&slot, VIRTIO_BLK_S_UNSUPP);
  Report(slot);
  Answer(&slot, VIRTIO_BLK_S_IOERR);
}

void BlockQueue::TryWaiting() {
  if (waiting_.empty()) return;
  disk_->image->AwaitWrite(queue_.kick);
  for (const uint32_t slot : std::exchange(waiting_, {}))
    GoOn(slot, slots_[slot].transfer.Continue());
  Publish();
}

void BlockQueue::Count(const Slot& slot) {
  const BlockRequest& request = slot.request;
  if (request.kind == BlockRequest::Kind::kRead)
    counters_->reads.Count(request.length_bytes, NowNs() - slot.begun_ns);
  if (request.kind == BlockRequest::Kind::kWrite)
    counters_->writes.Count(request.length_bytes, NowNs() - slot.begun_ns);
}

void BlockQueue::Answer(Slot* slot, uint8_t status) {
  BlockRequest& request = slot->request;
  const bool told = request.status_at != nullptr;
  if (told) *request.status_at = status;
  queue_.queue->Complete(slot->head, told ? Written(request, status) : 0);
  Free(slot);
}

void BlockQueue::Free(Slot* slot) {
  BlockRequest& request = slot->request;
  if (request.data.capacity() > kPiecesKept) request.data = {};
  moving_bytes_ -= std::exchange(slot->moving_bytes, 0);
  slot->transfer.Drop();
  slot->regions.reset();
  slot->first_sector.reset();
  free_.push_back(static_cast<uint32_t>(slot - slots_.data()));
}

void BlockQueue::Publish() {
  if (queue_.queue->Publish()) queue_.irq->Signal();
}

/// The clock is read once a round at most, and twice if the round polled.
int64_t BlockQueue::NowNs() {
  if (now_ns_ == 0) now_ns_ = SteadyNowNs();
  return now_ns_;
}

void BlockQueue::Report(const Slot& slot) {
  const int64_t now_ms = NowNs() / 1'000'000;
  int64_t quiet_until_ms = disk_->quiet_until_ms.load();
  if (now_ms < quiet_until_ms ||
      !disk_->quiet_until_ms.compare_exchange_strong(quiet_until_ms, now_ms + kBurstMs))
    return;
  const FileOp& op = slot.transfer.op();
  disk_->on_error(std::string("Cannot ") + Verb(op.kind) + " " + std::to_string(op.length) +
                  " bytes at offset " + std::to_string(op.offset) +
                  (op.file == 0 ? " of the image: " : " of a backing file: ") +
                  strerrordesc_np(slot.transfer.error()));
}

}  // namespace vmm
