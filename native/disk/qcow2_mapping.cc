#include "qcow2_mapping.h"

#include <errno.h>

#include <algorithm>

namespace vmm::qcow2 {
namespace {

constexpr size_t kCacheBytesMax = 32 << 20;
constexpr size_t kTableOverheadBytes = 128;

size_t TablesMax(const Qcow2Header& header) {
  const size_t fit = kCacheBytesMax / (header.cluster_bytes() + kTableOverheadBytes);
  return std::min<size_t>(header.l1_entries, fit);
}

}  // namespace

Mapping::Mapping(Store* store, Allocator* allocator)
    : store_(*store),
      allocator_(*allocator),
      l2_(*store->file, store->header.cluster_bytes(), TablesMax(store->header),
          [this] { return Write(); }) {}

int Mapping::Open(bool readonly) {
  std::vector<std::byte> bytes(store_.header.l1_entries * kEntryBytes);
  if (const int rc = store_.file->Read(store_.header.l1_offset, bytes); rc < 0)
    return AsIoError(rc);
  l1_.resize(store_.header.l1_entries);
  for (size_t i = 0; i < l1_.size(); ++i) l1_[i] = LoadBe64(&bytes[i * kEntryBytes]);
  if (readonly || l1_.empty()) return 0;
  std::vector<uint64_t> tables;
  for (uint64_t& entry : l1_) {
    const uint64_t offset = entry & kOffsetMask;
    if (store_.IsTable(offset))
      tables.push_back(store_.ClusterOf(offset));
    else if (offset != 0)
      entry = kNoTable;
  }
  const uint64_t first = store_.ClusterOf(store_.header.l1_offset);
  const Run place{first, store_.ClusterOf(store_.header.l1_offset + bytes.size() - 1) + 1 - first};
  return store_.metadata.Add(place) && store_.metadata.AddAll(tables) ? 0 : -EINVAL;
}

int Mapping::Lookup(uint64_t cluster, Slice* out) {
  const uint64_t index = cluster % store_.header.l2_entries();
  *out = {nullptr, store_.header.l2_entries() - index};
  const uint64_t offset = l1_[L1IndexOf(cluster)] & kOffsetMask;
  if (offset == 0) return 0;
  if (!store_.IsTable(offset)) return -EIO;
  std::byte* table = nullptr;
  const int rc = l2_.Load(offset, &table);
  if (rc == 0) out->entries = table + index * kEntryBytes;
  return AsIoError(rc);
}

int Mapping::Own(uint64_t cluster) {
  const size_t index = L1IndexOf(cluster);
  const uint64_t old = l1_[index] & kOffsetMask;
  if (old != 0 && !store_.IsTable(old)) return -EIO;
  std::vector<std::byte> copy;
  if (old != 0) {
    if (const int rc = l2_.Load(old, &owned_); rc < 0) return AsIoError(rc);
    if ((l1_[index] & kCopiedFlag) != 0) return 0;
    copy.assign(owned_, owned_ + store_.header.cluster_bytes());
  }
  Run run;
  if (const int rc = allocator_.Take(1, &run); rc < 0) return rc;
  const uint64_t offset = store_.OffsetOf(run.first);
  if (const int rc = l2_.Add(offset, &owned_); rc < 0) {
    allocator_.GiveBack(run);
    return rc;
  }
  std::copy(copy.begin(), copy.end(), owned_);
  if (old != 0) {
    l2_.Drop(old);
    store_.metadata.Remove({store_.ClusterOf(old), 1});
    allocator_.FreeLater({store_.ClusterOf(old), 1});
  }
  static_cast<void>(store_.metadata.Add(run));
  if (l1_dirty_end_ == 0) l1_dirty_begin_ = index;
  l1_dirty_begin_ = std::min(l1_dirty_begin_, index);
  l1_dirty_end_ = std::max(l1_dirty_end_, index + 1);
  l1_[index] = offset | kCopiedFlag;
  return 0;
}

void Mapping::Set(uint64_t cluster, uint64_t entry) {
  const size_t at = EntryAt(cluster);
  StoreBe64(owned_ + at, entry);
  l2_.Touch(l1_[L1IndexOf(cluster)] & kOffsetMask, at);
}

/// What a table names is on stable storage before the table may be: refcounts, what was copied, and
/// for the L1 table the L2 tables.
int Mapping::Write() {
  if (!l2_.dirty() && l1_dirty_end_ == 0) return 0;
  if (store_.unsynced)
    if (const int rc = store_.Sync(); rc < 0) return rc;
  if (const int rc = l2_.WriteDirty(); rc < 0) return rc;
  if (l1_dirty_end_ == 0) return 0;
  if (const int rc = store_.Sync(); rc < 0) return rc;
  return WriteL1();
}

int Mapping::WriteL1() {
  const size_t begin = l1_dirty_begin_;
  std::vector<std::byte> bytes((l1_dirty_end_ - begin) * kEntryBytes);
  for (size_t i = begin; i < l1_dirty_end_; ++i)
    StoreBe64(&bytes[(i - begin) * kEntryBytes], l1_[i]);
  const int rc = store_.file->Write(store_.header.l1_offset + begin * kEntryBytes, bytes);
  if (rc == 0) l1_dirty_begin_ = l1_dirty_end_ = 0;
  return rc;
}

}  // namespace vmm::qcow2
