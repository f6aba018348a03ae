#include "qcow2_refcounts.h"

#include <algorithm>
#include <array>

namespace vmm::qcow2 {
namespace {

constexpr size_t kCacheBytes = 4 << 20;
constexpr uint64_t kTableBytesMax = 4 << 20;  // as of the header
constexpr uint64_t kTableOffsetAt = 48;       // in the header, before the table's clusters

}  // namespace

Refcounts::Refcounts(Store* store)
    : store_(*store),
      block_clusters_(store->header.cluster_bytes() * 8 >> store->header.refcount_order),
      blocks_(*store->file, store->header.cluster_bytes(),
              kCacheBytes >> store->header.cluster_bits, [this] {
                store_.unsynced = true;
                return blocks_.WriteDirty();
              }) {}

int Refcounts::Open() {
  const Qcow2Header& header = store_.header;
  std::vector<std::byte> bytes(header.refcount_table_clusters << header.cluster_bits);
  if (const int rc = store_.file->Read(header.refcount_table_offset, bytes); rc < 0)
    return AsIoError(rc);
  table_.resize(bytes.size() / kEntryBytes);
  std::vector<uint64_t> blocks;
  for (size_t i = 0; i < table_.size(); ++i) {
    table_[i] = LoadBe64(&bytes[i * kEntryBytes]);
    if (store_.IsTable(table_[i]))
      blocks.push_back(store_.ClusterOf(table_[i]));
    else if (table_[i] != 0)
      table_[i] = kNoTable;
  }
  const Run place{store_.ClusterOf(header.refcount_table_offset), header.refcount_table_clusters};
  return store_.metadata.Add(place) && store_.metadata.AddAll(blocks) ? 0 : -EINVAL;
}

uint64_t Refcounts::GetIn(const std::byte* block, uint64_t index) const {
  const uint32_t bits = 1U << store_.header.refcount_order;
  if (bits < 8) {
    const auto shift = static_cast<uint32_t>(index * bits % 8);
    return (static_cast<uint32_t>(block[index * bits / 8]) >> shift) & ((1U << bits) - 1);
  }
  uint64_t count = 0;
  for (uint64_t i = 0; i < bits / 8; ++i)
    count = count << 8 | static_cast<uint64_t>(block[index * (bits / 8) + i]);
  return count;
}

void Refcounts::SetIn(std::byte* block, uint64_t index, uint64_t count) const {
  const uint32_t bits = 1U << store_.header.refcount_order;
  if (bits < 8) {
    const auto shift = static_cast<uint32_t>(index * bits % 8);
    std::byte& at = block[index * bits / 8];
    at = (at & ~static_cast<std::byte>(((1U << bits) - 1) << shift)) |
         static_cast<std::byte>(count << shift);
    return;
  }
  for (uint64_t i = bits / 8; i-- > 0; count >>= 8)
    block[index * (bits / 8) + i] = static_cast<std::byte>(count & 0xff);
}

int Refcounts::LoadBlock(uint64_t index, std::byte** block) {
  *block = nullptr;
  if (index >= table_.size() || table_[index] == 0) return 0;
  if (!store_.IsTable(table_[index])) return -EIO;
  return AsIoError(blocks_.Load(table_[index], block));
}

int Refcounts::Get(uint64_t cluster, uint64_t* count) {
  std::byte* block = nullptr;
  const int rc = LoadBlock(cluster / block_clusters_, &block);
  if (rc == 0) *count = block == nullptr ? 0 : GetIn(block, cluster % block_clusters_);
  return rc;
}

uint64_t Refcounts::FindFree(Run from_to, uint64_t want, uint32_t blocks_max, Run* run) {
  *run = {};
  uint64_t at = from_to.first;
  for (uint32_t looked = 0; looked < blocks_max && at < from_to.end() && run->count == 0;
       ++looked) {
    const uint64_t index = at / block_clusters_;
    const uint64_t end = std::min((index + 1) * block_clusters_, from_to.end());
    std::byte* block = nullptr;
    const bool readable = LoadBlock(index, &block) == 0;  // else nothing there is known to be free
    for (; at < end && run->count < want; ++at) {
      const bool free = readable && (block == nullptr || GetIn(block, at % block_clusters_) == 0) &&
                        !store_.metadata.Overlaps({at, 1});
      if (free && run->count++ == 0) run->first = at;
      if (!free && run->count > 0) return at;
    }
  }
  return at;
}

int Refcounts::Set(Run run, uint64_t count) {
  const uint64_t index = run.first / block_clusters_;
  std::byte* block = nullptr;
  if (const int rc = LoadBlock(index, &block); rc < 0) return rc;
  if (block == nullptr) return -EIO;
  for (uint64_t cluster = run.first; cluster < run.end(); ++cluster) {
    const uint64_t in_block = cluster % block_clusters_;
    SetIn(block, in_block, count);
    blocks_.Touch(table_[index], (in_block << store_.header.refcount_order) / 8);
  }
  return 0;
}

int Refcounts::Raise(Run* run) {
  const uint64_t index = run->first / block_clusters_;
  if (index >= table_.size()) {
    *run = {};
    return GrowTable();
  }
  store_.unsynced = true;
  return table_[index] == 0 ? RaiseInNewBlock(run) : Set(*run, 1);
}

/// The block counts itself. It is on stable storage before the table names it, for a block of
/// zeroes would have everything there be free.
int Refcounts::RaiseInNewBlock(Run* run) {
  const uint64_t index = run->first / block_clusters_;
  const uint64_t offset = store_.OffsetOf(run->first);
  std::byte* block = nullptr;
  if (const int rc = blocks_.Add(offset, &block); rc < 0) return rc;
  for (uint64_t i = 0; i < run->count; ++i) SetIn(block, run->first % block_clusters_ + i, 1);
  std::array<std::byte, kEntryBytes> entry;
  StoreBe64(entry.data(), offset);
  int rc = Write();
  if (rc == 0) rc = store_.Sync();
  if (rc == 0)
    rc = store_.file->Write(store_.header.refcount_table_offset + index * kEntryBytes, entry);
  if (rc == 0 && !store_.metadata.Add({run->first, 1})) rc = -EIO;
  if (rc < 0) {
    blocks_.Drop(offset);
    return rc;
  }
  store_.unsynced = true;
  table_[index] = offset;
  *run = {run->first + 1, run->count - 1};
  return 0;
}

bool Refcounts::Lower(uint64_t cluster) {
  uint64_t count = 0;
  if (Get(cluster, &count) < 0 || count == 0) return false;
  return Set({cluster, 1}, count - 1) == 0 && count == 1;
}

void Refcounts::LowerAll(Run run) {
  for (uint64_t cluster = run.first; cluster < run.end(); ++cluster) Lower(cluster);
}

/// The new table lies behind the end of the file, and before it the blocks that count it and
/// themselves. Only when all of that is on stable storage does the header name it.
int Refcounts::GrowTable() {
  const uint32_t bits = store_.header.cluster_bits;
  const uint64_t first = std::max<uint64_t>(store_.end_cluster(), table_.size() * block_clusters_);
  const uint64_t index = first / block_clusters_;
  const uint64_t wanted = std::max<uint64_t>(table_.size() / 2 * 3, index + index / 4 + 1);
  uint64_t table_clusters = 0;
  uint64_t blocks = 1;
  for (uint64_t before = 0; before != blocks;) {
    before = blocks;
    table_clusters = (((wanted + blocks) * kEntryBytes) >> bits) + 1;
    blocks = (first + blocks + table_clusters - 1) / block_clusters_ - index + 1;
  }
  if (table_clusters << bits > kTableBytesMax) return -EFBIG;
  const Run place{first + blocks, table_clusters};
  if (const int rc = store_.GrowTo(place.end()); rc < 0) return rc;
  std::vector<uint64_t> table = table_;
  table.resize((table_clusters << bits) / kEntryBytes);
  for (uint64_t i = 0; i < blocks; ++i) table[index + i] = store_.OffsetOf(first + i);
  const Run old{store_.ClusterOf(store_.header.refcount_table_offset),
                store_.header.refcount_table_clusters};
  if (const int rc = WriteGrown(table, {first, blocks}, place); rc < 0) return rc;
  table_.swap(table);
  store_.header.refcount_table_offset = store_.OffsetOf(place.first);
  store_.header.refcount_table_clusters = place.count;
  store_.metadata.Remove(old);
  bool apart = store_.metadata.Add(place);
  for (uint64_t i = 0; i < blocks; ++i) apart = store_.metadata.Add({first + i, 1}) && apart;
  store_.unsynced = true;
  if (const int rc = store_.Sync(); rc < 0) return rc;
  LowerAll(old);
  return apart ? 0 : -EIO;
}

int Refcounts::WriteGrown(const std::vector<uint64_t>& table, Run blocks, Run place) {
  std::vector<std::byte> bytes(store_.header.cluster_bytes());
  for (uint64_t at = blocks.first; at < blocks.end(); ++at) {
    const uint64_t counted = (blocks.first / block_clusters_ + at - blocks.first) * block_clusters_;
    std::fill(bytes.begin(), bytes.end(), std::byte{0});
    for (uint64_t cluster = std::max(counted, blocks.first);
         cluster < std::min(counted + block_clusters_, place.end()); ++cluster)
      SetIn(bytes.data(), cluster - counted, 1);
    if (const int rc = store_.file->Write(store_.OffsetOf(at), bytes); rc < 0) return rc;
  }
  bytes.resize(table.size() * kEntryBytes);
  for (size_t i = 0; i < table.size(); ++i) StoreBe64(&bytes[i * kEntryBytes], table[i]);
  int rc = store_.file->Write(store_.OffsetOf(place.first), bytes);
  if (rc == 0) rc = store_.Sync();
  std::array<std::byte, kEntryBytes + 4> named;
  StoreBe64(named.data(), store_.OffsetOf(place.first));
  StoreBe32(&named[kEntryBytes], static_cast<uint32_t>(place.count));
  return rc == 0 ? store_.file->Write(kTableOffsetAt, named) : rc;
}

}  // namespace vmm::qcow2
