#pragma once
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>

#include "inflate.h"
#include "qcow2_store.h"

namespace vmm::qcow2 {

/// Compressed clusters, the last few of them as they were read: a guest reads one in pieces.
class CompressedClusters {
 public:
  using Bytes = std::shared_ptr<const std::byte[]>;

  CompressedClusters(const Store* store, std::unique_ptr<Decompressor> decompressor)
      : store_(*store), decompressor_(std::move(decompressor)) {}

  /// All of the cluster, null if it is not one of the last few. Under the image's mutex, as Keep.
  Bytes Find(const Cluster& cluster);
  void Keep(const Cluster& cluster, Bytes bytes);
  /// Has `*out` be all of the cluster. 0 or a negative errno, EIO if it is no such cluster. It may
  /// take long, so any thread calls it without the image's mutex; `file_bytes` is as it was under
  /// it.
  int Load(const Cluster& cluster, uint64_t file_bytes, Bytes* out) const;

 private:
  struct Known {
    Cluster cluster;
    Bytes bytes;
  };

  const Store& store_;  // only its file and its header, which stay as they are
  const std::unique_ptr<const Decompressor> decompressor_;
  std::list<Known> known_;  // what was used last comes first
};

}  // namespace vmm::qcow2
