#include "qcow2_allocator.h"

#include <errno.h>

#include <algorithm>
#include <limits>

namespace vmm::qcow2 {
namespace {

constexpr uint64_t kReserveBytes = 16 << 20;
/// How much behind the end of the file refcounts may say that it is in use, as after a crash of
/// another writer, before we take it that they are wrong: they must not blow the file up.
constexpr uint64_t kStrayBytesMax = 64 << 20;
constexpr size_t kRunsAtOnce = 64;
/// A search for holes must not hold a write up for long; the next goes on where it ends.
constexpr uint32_t kBlocksAtOnce = 4;
constexpr size_t kFreedRunsMax = 16384;

}  // namespace

int Allocator::Take(uint64_t want, Run* out) {
  if (reserve_.empty())
    if (const int rc = Refill(); rc < 0) return rc;
  Run& next = reserve_.back();
  *out = {next.first, std::min(want, next.count)};
  next = {out->end(), next.count - out->count};
  if (next.count == 0) reserve_.pop_back();
  return 0;
}

int Allocator::Refill() {
  const uint64_t want = std::max<uint64_t>(kReserveBytes >> store_.header.cluster_bits, 1);
  int rc = reuse_ ? ReuseHoles(want) : 0;
  if (rc == 0 && reserve_.empty()) rc = Grow(want);
  if (rc == 0) rc = refcounts_.Write();
  store_.unsynced = true;
  if (rc == 0) {
    std::reverse(reserve_.begin(), reserve_.end());
    return 0;
  }
  for (const Run& run : reserve_) refcounts_.LowerAll(run);
  reserve_.clear();
  return rc;
}

int Allocator::ReuseHoles(uint64_t want) {
  const bool grows = !store_.file->file().block_device;
  const uint32_t blocks = grows ? kBlocksAtOnce : std::numeric_limits<uint32_t>::max();
  for (size_t runs = 0; runs < kRunsAtOnce && want > 0; ++runs) {
    const uint64_t end = store_.end_cluster();
    Run run;
    hole_ = refcounts_.FindFree({hole_, end - std::min(hole_, end)}, want, blocks, &run);
    if (run.count == 0) return 0;
    const uint64_t first = run.first;
    int rc = refcounts_.Raise(&run);
    if (rc == 0 && run.count > 0)
      rc = store_.file->Punch(store_.OffsetOf(run.first), run.count << store_.header.cluster_bits);
    if (rc < 0) {
      refcounts_.LowerAll(run);
      hole_ = first;
      reuse_ = rc != -EOPNOTSUPP || !grows;
      return reuse_ ? rc : 0;
    }
    if (run.count > 0) reserve_.push_back(run);
    want -= run.count;
  }
  return 0;
}

int Allocator::Grow(uint64_t want) {
  // A block or the refcount table may take what was found: then there is more behind it.
  for (int tries = 0; tries < 4; ++tries) {
    const uint64_t end = store_.end_cluster();
    Run run;
    refcounts_.FindFree({end, kStrayBytesMax >> store_.header.cluster_bits}, want, kBlocksAtOnce,
                        &run);
    if (run.count == 0) return -EIO;
    int rc = store_.GrowTo(run.end());
    if (rc == 0) rc = refcounts_.Raise(&run);
    if (rc < 0) return rc;
    if (run.count == 0) continue;
    reserve_.push_back(run);
    return 0;
  }
  return -ENOSPC;
}

void Allocator::Free(Run run) {
  refcounts_.LowerAll(run);
  hole_ = std::min(hole_, run.first);
}

void Allocator::FreeLater(Run run) {
  if (!freed_.empty() && freed_.back().end() == run.first)
    freed_.back().count += run.count;
  else
    freed_.push_back(run);
}

bool Allocator::many_frees() const { return freed_.size() >= kFreedRunsMax; }

int Allocator::CommitFrees() {
  std::vector<Run> freed;
  freed.swap(freed_);
  for (const Run& run : freed) {
    Run unused;
    const auto punch = [&] {
      // That the file system keeps the room harms nobody.
      if (unused.count > 0)
        static_cast<void>(store_.file->Punch(store_.OffsetOf(unused.first),
                                             unused.count << store_.header.cluster_bits));
      unused = {};
    };
    for (uint64_t cluster = run.first; cluster < run.end(); ++cluster) {
      if (!refcounts_.Lower(cluster)) {
        punch();
        continue;
      }
      if (unused.count++ == 0) unused.first = cluster;
      hole_ = std::min(hole_, cluster);
    }
    punch();
  }
  return refcounts_.Write();
}

void Allocator::Close() {
  for (const Run& run : reserve_) refcounts_.LowerAll(run);
  reserve_.clear();
  if (refcounts_.Write() < 0 || store_.file->file().block_device) return;
  uint64_t end = store_.end_cluster();
  for (uint64_t count = 0; end > first_end_; --end)
    if (refcounts_.Get(end - 1, &count) < 0 || count > 0) break;
  if (end < store_.end_cluster()) static_cast<void>(store_.file->Resize(store_.OffsetOf(end)));
}

}  // namespace vmm::qcow2
