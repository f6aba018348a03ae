#pragma once
#include <cstdint>
#include <vector>

#include "qcow2_store.h"
#include "qcow2_table_cache.h"

namespace vmm::qcow2 {

/// How often each cluster of the file is in use: the refcount table and the blocks that it names.
///
/// Counts that go up are in the file, if not on stable storage, when Raise and Write have returned;
/// counts that go down may follow at any time, because whoever lowers one has the last name of its
/// cluster gone from stable storage.
class Refcounts {
 public:
  explicit Refcounts(Store* store);
  /// Reads the table. 0 or a negative errno; -EINVAL if two tables of the image lie in one place.
  int Open();

  /// -EIO if the block that has it cannot be relied on.
  int Get(uint64_t cluster, uint64_t* count);
  /// Looks for at most `want` free clusters next to each other in [from, to), in no more than
  /// `blocks_max` blocks. `run->count` is 0 if there is none. Returns where to look on.
  uint64_t FindFree(Run from_to, uint64_t want, uint32_t blocks_max, Run* run);
  /// Has what FindFree found, within the file, be in use once. A block that has to be made for them
  /// takes the first. If they lie behind what the table can name, a larger table is made, `run` is
  /// left empty, and the search goes on behind the end of the file. 0 or a negative errno; then
  /// they are free as before.
  int Raise(Run* run);
  /// One user less. True if nothing uses it any more; a cluster that had no user stays so.
  bool Lower(uint64_t cluster);
  void LowerAll(Run run);
  /// Puts what has changed into the file.
  int Write() { return blocks_.WriteDirty(); }

 private:
  uint64_t GetIn(const std::byte* block, uint64_t index) const;
  void SetIn(std::byte* block, uint64_t index, uint64_t count) const;
  /// `*block` is null if there is none.
  int LoadBlock(uint64_t index, std::byte** block);
  int Set(Run run, uint64_t count);
  int RaiseInNewBlock(Run* run);
  int GrowTable();
  int WriteGrown(const std::vector<uint64_t>& table, Run blocks, Run place);

  Store& store_;
  const uint64_t block_clusters_;  // that a block counts
  std::vector<uint64_t> table_;    // offsets of blocks, 0 if there is none
  TableCache blocks_;
};

}  // namespace vmm::qcow2
