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

const char* Describe(ChainStatus status, bool behind_iommu) {
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
      return behind_iommu ? "buffer that the IOMMU does not map so" : "buffer outside RAM";
    case ChainStatus::kBadOrder:
      return "readable buffer after a writable one";
    case ChainStatus::kTooLong:
      return "descriptor chain of more than 4 GiB";
  }
  return "unknown fault";
}

bool Aligned(uint64_t gpa, uint64_t step) { return gpa % step == 0; }

}  // namespace

RingView::RingView(std::vector<std::byte*> pages, uint64_t skipped)
    : base_(pages.front() + skipped), pages_(std::move(pages)), skipped_(skipped) {
  for (size_t i = 1; i < pages_.size(); ++i)
    if (pages_[i] != pages_[i - 1] + kPageBytes) return;
  pages_.clear();
}

Queue::Queue(std::shared_ptr<const GuestMemory> memory, const QueueOptions& options,
             std::shared_ptr<const DmaSpace> space)
    : memory_(std::move(memory)),
      options_(options),
      space_(std::move(space)),
      held_(space_ == nullptr ? 0 : options.size),
      in_flight_(options.size) {
  const uint16_t size = options.size;
  if (size == 0 || (size & (size - 1)) != 0) Break("size that is no power of two");
  if (!Aligned(options.desc_gpa, 16) || !Aligned(options.avail_gpa, 2) ||
      !Aligned(options.used_gpa, 4))
    Break("ring at an unaligned address");
}

bool Queue::Begin() {
  if (fault_ != nullptr) return false;
  auto regions = memory_->Snapshot();
  const bool other = regions != regions_;
  if (other) ++epoch_;
  regions_ = std::move(regions);
  if (space_ == nullptr) {
    avail_ = RingView(regions_->Contiguous(options_.avail_gpa, AvailBytes(options_.size), true));
    used_ = RingView(regions_->Contiguous(options_.used_gpa, UsedBytes(options_.size), true));
  } else if (other || IsStale()) {
    FindRingsBehindIommu();
  }
  if (!avail_.ok() || !used_.ok())
    Break(space_ == nullptr ? "ring outside RAM" : "ring that the IOMMU does not map so");
  return fault_ == nullptr;
}

void Queue::FindRingsBehindIommu() {
  LetGo();
  ++epoch_;
  generation_ = space_->generation();  // before what it tells of: else a change might be missed
  rings_.attachment = space_->attachment();
  const DmaView view(*regions_, *rings_.attachment, &rings_.mappings);
  avail_ = FindRing(view, options_.avail_gpa, AvailBytes(options_.size), false);
  used_ = FindRing(view, options_.used_gpa, UsedBytes(options_.size), true);
}

/// Page by page, for the pages of a ring may lie anywhere in RAM.
RingView Queue::FindRing(const DmaView& view, uint64_t iova, uint64_t len, bool writable) const {
  const uint64_t skipped = iova % RingView::kPageBytes;
  std::vector<std::byte*> pages;
  for (uint64_t at = iova - skipped; at - (iova - skipped) < skipped + len;
       at += RingView::kPageBytes) {
    BoundedList<iovec, 1> page;
    if (!view.Map(at, RingView::kPageBytes, writable, &page)) return {};
    pages.push_back(static_cast<std::byte*>(page.items[0].iov_base));
  }
  return {std::move(pages), skipped};
}

void Queue::LetGo() {
  if (space_ == nullptr) return;
  avail_ = used_ = RingView();
  rings_ = {};
  generation_ = space_->generation() - 1;
}

Queue::Taken Queue::Take(Chain* chain, uint16_t* head) {
  if (!IsOpen()) return Taken::kBroken;
  const auto waiting = static_cast<uint16_t>(AvailIdx() - next_avail_);
  if (waiting == 0) return Taken::kNone;
  if (waiting > options_.size) return Break("more chains available than the queue holds");
  const size_t slot = next_avail_ % options_.size;
  const uint16_t offered = Load(avail_.At(kRing + kAvailEntryBytes * slot));
  if (offered >= options_.size) return Break("head beyond the table");
  if (in_flight_[offered]) return Break("head that is in flight already");
  const ChainStatus status = space_ != nullptr
                                 ? WalkBehindIommu(offered, chain)
                                 : WalkChain(*regions_, options_.desc_gpa, options_.size, offered,
                                             options_.indirect, chain);
  if (status != ChainStatus::kOk) return Break(Describe(status, space_ != nullptr));
  in_flight_[offered] = true;
  ++in_flight_count_;
  ++next_avail_;
  *head = offered;
  return Taken::kChain;
}

ChainStatus Queue::WalkBehindIommu(uint16_t head, Chain* chain) {
  Held held{rings_.attachment, {}};
  const DmaView view(*regions_, *held.attachment, &held.mappings);
  const ChainStatus status =
      WalkChain(view, options_.desc_gpa, options_.size, head, options_.indirect, chain);
  if (status == ChainStatus::kOk) held_[head] = std::move(held);
  return status;
}

void Queue::Forget(uint16_t head) {
  VMM_ASSERT(head < options_.size && in_flight_[head]);
  in_flight_[head] = false;
  if (space_ != nullptr) held_[head] = {};
}

void Queue::Complete(uint16_t head, uint32_t written) {
  Forget(head);
  --in_flight_count_;
  if (!IsOpen()) return;
  const size_t entry = kRing + kUsedEntryBytes * (next_used_ % options_.size);
  Store<uint32_t>(used_.At(entry), head);
  Store<uint32_t>(used_.At(entry + sizeof(uint32_t)), written);
  ++next_used_;
}

void Queue::GiveBack(std::span<const uint16_t> heads) {
  VMM_ASSERT(heads.size() <= in_flight_count_);
  for (const uint16_t head : heads) Forget(head);
  in_flight_count_ = static_cast<uint16_t>(in_flight_count_ - heads.size());
  next_avail_ = static_cast<uint16_t>(next_avail_ - heads.size());
}

bool Queue::Publish() {
  if (!IsOpen() || next_used_ == published_used_) return false;
  const uint16_t before = std::exchange(published_used_, next_used_);
  // The driver asks for an interrupt and then looks at the index; we do it the other way round.
  Store<uint16_t>(used_.At(kIdx), next_used_, std::memory_order_seq_cst);
  if (!options_.event_idx)
    return (Load(avail_.At(kFlags), std::memory_order_seq_cst) & kNoInterrupt) == 0;
  const uint16_t event =
      Load(avail_.At(kRing + kAvailEntryBytes * options_.size), std::memory_order_seq_cst);
  return Passes(event, before, next_used_);
}

void Queue::DisableKicks() {
  if (IsOpen() && !options_.event_idx) Store<uint16_t>(used_.At(kFlags), kNoNotify);
}

bool Queue::EnableKicks() {
  if (!IsOpen()) return false;
  if (options_.event_idx)
    Store<uint16_t>(used_.At(kRing + kUsedEntryBytes * options_.size), next_avail_,
                    std::memory_order_seq_cst);
  else
    Store<uint16_t>(used_.At(kFlags), 0, std::memory_order_seq_cst);
  return HasChains();
}

bool Queue::HasChains() const { return IsOpen() && AvailIdx() != next_avail_; }

Queue::Taken Queue::Break(const char* fault) {
  fault_ = fault;
  LetGo();
  return Taken::kBroken;
}

/// Ordered so that the entries which it counts are seen, too.
uint16_t Queue::AvailIdx() const { return Load(avail_.At(kIdx), std::memory_order_seq_cst); }

}  // namespace vmm
