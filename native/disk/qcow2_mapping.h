#pragma once
#include <cstdint>
#include <vector>

#include "qcow2_allocator.h"
#include "qcow2_store.h"
#include "qcow2_table_cache.h"

namespace vmm::qcow2 {

/// Where the clusters of the disk are: the L1 table, and the L2 tables that it names.
class Mapping {
 public:
  Mapping(Store* store, Allocator* allocator);
  /// Reads the L1 table. 0 or a negative errno; -EINVAL if two tables of an image that is to be
  /// written lie in one place.
  int Open(bool readonly);

  /// The entries of clusters from one on, up to the end of its L2 table. Until the next call.
  struct Slice {
    const std::byte* entries = nullptr;  ///< null if there is no such table
    uint64_t count = 0;
    uint64_t entry(uint64_t index) const {
      return entries == nullptr ? 0 : LoadBe64(entries + index * kEntryBytes);
    }
  };
  /// 0 or a negative errno.
  int Lookup(uint64_t cluster, Slice* out);
  /// Has the L2 table of a cluster be there and be only ours, that its entries can be Set.
  int Own(uint64_t cluster);
  /// After Own of a cluster of the same L2 table, with no other Lookup or Own in between.
  uint64_t Get(uint64_t cluster) const { return LoadBe64(owned_ + EntryAt(cluster)); }
  void Set(uint64_t cluster, uint64_t entry);

  /// Puts all changes into the file: the caller syncs it. 0 or a negative errno.
  int Write();

 private:
  size_t L1IndexOf(uint64_t cluster) const { return cluster / store_.header.l2_entries(); }
  size_t EntryAt(uint64_t cluster) const {
    return cluster % store_.header.l2_entries() * kEntryBytes;
  }
  int WriteL1();

  Store& store_;
  Allocator& allocator_;
  std::vector<uint64_t> l1_;
  size_t l1_dirty_begin_ = 0, l1_dirty_end_ = 0;  // equal if clean
  TableCache l2_;
  std::byte* owned_ = nullptr;
};

}  // namespace vmm::qcow2
