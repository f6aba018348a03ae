#include "queue.h"

#include <atomic>
#include <cstring>
#include <utility>

#include "../base/assert.h"

namespace vmm {
namespace {

// Offsets in the rings, VIRTIO 1.2 §2.7.6 and §2.7.8.
constexpr size_t kFlags = 0, kIdx = 2, kRing = 4;
constexpr size_t kAvailEntryBytes = 2, kUsedEntryBytes = 8;
constexpr size_t kEventBytes = 2;
constexpr uint16_t kNoInterrupt = 1, kNoNotify = 1;

size_t AvailBytes(uint16_t size) { return kRing + kAvailEntryBytes * size + kEventBytes; }
size_t UsedBytes(uint16_t size) { return kRing + kUsedEntryBytes * size + kEventBytes; }

/// Rings are shared with vCPUs: every access is atomic, and what it reads is read once. Where each
/// side stores and then looks at what the other has stored, both are sequentially consistent (not a
/// fence, which TSan does not know), so that at least one sees the other.
uint16_t Load(std::byte* at, std::memory_order order = std::memory_order_relaxed) {
  return std::atomic_ref(*reinterpret_cast<uint16_t*>(at)).load(order);
}
template <class T>
void Store(std::byte* at, T value, std::memory_order order = std::memory_order_relaxed) {
  std::atomic_ref(*reinterpret_cast<T*>(at)).store(value, order);
}

/// Whether moving an index from `from` to `to` passes `event`. §2.7.7.2, modulo 2^16.
bool Passes(uint16_t event, uint16_t from, uint16_t to) {
  return static_cast<uint16_t>(to - event - 1) < static_cast<uint16_t>(to - from);
}

const char* Describe(ChainStatus status) {
  switch (status) {
    case ChainStatus::kOk:
      return nullptr;
    case ChainStatus::kBadIndex:
      return "descriptor index beyond the table";
    case ChainStatus::kLoop:
      return "descriptor chain longer than the queue";
    case ChainStatus::kBadTable:
      return "descriptor table outside RAM";
    case ChainStatus::kBadIndirect:
      return "malformed indirect descriptor";
    case ChainStatus::kBadBuffer:
      return "buffer outside RAM";
    case ChainStatus::kBadOrder:
      return "readable buffer after a writable one";
    case ChainStatus::kTooLong:
      return "descriptor chain of more than 4 GiB";
  }
  return "unknown fault";
}

bool Aligned(uint64_t gpa, uint64_t step) { return gpa % step == 0; }

}  // namespace

Queue::Queue(std::shared_ptr<const GuestMemory> memory, const QueueOptions& options)
    : memory_(std::move(memory)), options_(options), in_flight_(options.size) {
  const uint16_t size = options.size;
  if (size == 0 || (size & (size - 1)) != 0) Break("size that is no power of two");
  if (!Aligned(options.desc_gpa, 16) || !Aligned(options.avail_gpa, 2) ||
      !Aligned(options.used_gpa, 4))
    Break("ring at an unaligned address");
}

bool Queue::Begin() {
  if (fault_ != nullptr) return false;
  regions_ = memory_->Snapshot();
  avail_ = regions_->Contiguous(options_.avail_gpa, AvailBytes(options_.size), true);
  used_ = regions_->Contiguous(options_.used_gpa, UsedBytes(options_.size), true);
  if (avail_ == nullptr || used_ == nullptr) Break("ring outside RAM");
  return fault_ == nullptr;
}

Queue::Taken Queue::Take(Chain* chain, uint16_t* head) {
  if (fault_ != nullptr) return Taken::kBroken;
  const auto waiting = static_cast<uint16_t>(AvailIdx() - next_avail_);
  if (waiting == 0) return Taken::kNone;
  if (waiting > options_.size) return Break("more chains available than the queue holds");
  const size_t slot = next_avail_ % options_.size;
  const uint16_t offered = Load(avail_ + kRing + kAvailEntryBytes * slot);
  if (offered >= options_.size) return Break("head beyond the table");
  if (in_flight_[offered]) return Break("head that is in flight already");
  const ChainStatus status =
      WalkChain(*regions_, options_.desc_gpa, options_.size, offered, options_.indirect, chain);
  if (status != ChainStatus::kOk) return Break(Describe(status));
  in_flight_[offered] = true;
  ++in_flight_count_;
  ++next_avail_;
  *head = offered;
  return Taken::kChain;
}

void Queue::Complete(uint16_t head, uint32_t written) {
  VMM_ASSERT(head < options_.size && in_flight_[head]);
  in_flight_[head] = false;
  --in_flight_count_;
  if (fault_ != nullptr) return;
  std::byte* entry = used_ + kRing + kUsedEntryBytes * (next_used_ % options_.size);
  Store<uint32_t>(entry, head);
  Store<uint32_t>(entry + sizeof(uint32_t), written);
  ++next_used_;
}

void Queue::GiveBack(std::span<const uint16_t> heads) {
  VMM_ASSERT(heads.size() <= in_flight_count_);
  for (const uint16_t head : heads) {
    VMM_ASSERT(head < options_.size && in_flight_[head]);
    in_flight_[head] = false;
  }
  in_flight_count_ = static_cast<uint16_t>(in_flight_count_ - heads.size());
  next_avail_ = static_cast<uint16_t>(next_avail_ - heads.size());
}

bool Queue::Publish() {
  if (fault_ != nullptr || next_used_ == published_used_) return false;
  const uint16_t before = std::exchange(published_used_, next_used_);
  // The driver asks for an interrupt and then looks at the index; we do it the other way round.
  Store<uint16_t>(used_ + kIdx, next_used_, std::memory_order_seq_cst);
  if (!options_.event_idx)
    return (Load(avail_ + kFlags, std::memory_order_seq_cst) & kNoInterrupt) == 0;
  const uint16_t event =
      Load(avail_ + kRing + kAvailEntryBytes * options_.size, std::memory_order_seq_cst);
  return Passes(event, before, next_used_);
}

void Queue::DisableKicks() {
  if (fault_ == nullptr && !options_.event_idx) Store<uint16_t>(used_ + kFlags, kNoNotify);
}

bool Queue::EnableKicks() {
  if (fault_ != nullptr) return false;
  if (options_.event_idx)
    Store<uint16_t>(used_ + kRing + kUsedEntryBytes * options_.size, next_avail_,
                    std::memory_order_seq_cst);
  else
    Store<uint16_t>(used_ + kFlags, 0, std::memory_order_seq_cst);
  return HasChains();
}

bool Queue::HasChains() const { return fault_ == nullptr && AvailIdx() != next_avail_; }

Queue::Taken Queue::Break(const char* fault) {
  fault_ = fault;
  return Taken::kBroken;
}

/// Ordered so that the entries which it counts are seen, too.
uint16_t Queue::AvailIdx() const { return Load(avail_ + kIdx, std::memory_order_seq_cst); }

}  // namespace vmm
