#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "image.h"
#include "qcow2.h"
#include "qcow2_allocator.h"
#include "qcow2_compressed.h"
#include "qcow2_in_flight.h"
#include "qcow2_mapping.h"
#include "qcow2_refcounts.h"
#include "qcow2_store.h"

namespace vmm::qcow2 {

/// An open image. docs/adr/0005-qcow2.md tells in which order things reach the file, and why.
class Qcow2Image final : public Image {
 public:
  Qcow2Image(Store store, Qcow2Backing backing, std::unique_ptr<Decompressor> decompressor,
             bool readonly);
  ~Qcow2Image() override;
  /// Reads the tables, and has the header say that it is written. 0 or a negative errno; -EINVAL if
  /// two tables lie in one place.
  int Open();

  uint64_t size_bytes() const override { return store_.header.size_bytes; }
  int Read(DiskRange range, Extent* out) override;
  int BeginWrite(DiskRange range, WritePlan* out) override;
  int EndWrite(uint64_t ticket, bool written) override;
  int Discard(DiskRange range) override;
  int Zero(DiskRange range, bool unmap, uint64_t* done, uint64_t* by_hand) override;
  int Flush() override;

 private:
  enum class Clearing { kDiscard, kUnmap, kKeepRoom };

  Cluster At(const Mapping::Slice& slice, uint64_t index) const {
    return Named(slice.entry(index));
  }
  Cluster Named(uint64_t entry) const;
  bool HasPlace(const Cluster& cluster) const;
  Run Touched(DiskRange range) const;
  Run Whole(DiskRange range) const;

  int ClearAutoclear();
  int Find(DiskRange range, Cluster* cluster, Extent* out);
  int ReadCompressed(DiskRange range, const Cluster& cluster, Extent* out,
                     std::unique_lock<std::mutex>* lock);
  int ReadBacking(DiskRange range, Extent* out) const;
  int ReadBytes(uint64_t offset, std::span<std::byte> into);

  int Claim(DiskRange range, Write* write, uint64_t* ticket);

  int Place(const Mapping::Slice& slice, Write* write);
  int Surround(DiskRange range, const Write& write, WritePlan* out);
  int Adopt(const Write& write);

  /// The entry that has `old` be cleared.
  uint64_t Cleared(uint64_t old, Clearing how) const;
  int Clear(Run disk, Clearing how);
  void Release(const Cluster& old);
  int FlushLocked();

  const Qcow2Backing backing_;
  const std::vector<ImageFile> backing_files_;
  const bool readonly_;
  /// Of all that follows but the file and the header. Not held while data are read or taken apart.
  std::mutex mutex_;
  Store store_;
  Refcounts refcounts_;
  Allocator allocator_;
  Mapping mapping_;
  CompressedClusters compressed_;
  InFlight in_flight_;
};

}  // namespace vmm::qcow2
