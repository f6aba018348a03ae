#pragma once
#include <cstdint>
#include <vector>

#include "qcow2_refcounts.h"
#include "qcow2_store.h"

namespace vmm::qcow2 {

/// Hands clusters out, and takes them back when no table on stable storage names them any more.
///
/// Clusters come from a reserve, the counts of which are raised ahead: so one fdatasync(2) serves
/// many of them. They read as zeroes. A process that is killed leaks what is left of it, at most.
class Allocator {
 public:
  explicit Allocator(Store* store, Refcounts* refcounts)
      : store_(*store), refcounts_(*refcounts), first_end_(store->end_cluster()) {}

  /// At least one and at most `want` clusters next to each other. 0 or a negative errno.
  int Take(uint64_t want, Run* out);
  /// What Take gave, and nothing was written to.
  void GiveBack(Run run) { reserve_.push_back(run); }
  /// What Take gave, and no table names.
  void Free(Run run);
  /// What a table in the file may still name.
  void FreeLater(Run run);
  bool has_frees() const { return !freed_.empty(); }
  /// Whether so much waits that it should be flushed.
  bool many_frees() const;
  /// All of FreeLater: no table on stable storage names it any more. 0 or a negative errno.
  int CommitFrees();
  /// Gives back the reserve and what of the end of the file has become free.
  void Close();

 private:
  int Refill();
  int ReuseHoles(uint64_t want);
  int Grow(uint64_t want);

  Store& store_;
  Refcounts& refcounts_;
  const uint64_t first_end_;  // of the file as it was opened
  uint64_t hole_ = 0;         // no cluster before it is worth a look
  bool reuse_ = true;         // holes can be made to read as zeroes
  std::vector<Run> reserve_;  // the last is the next
  std::vector<Run> freed_;
};

}  // namespace vmm::qcow2
