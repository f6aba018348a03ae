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
  CompressedClusters(const Store* store, std::unique_ptr<Decompressor> decompressor)
      : store_(*store), decompressor_(std::move(decompressor)) {}

  /// Has `*out` be all of the cluster. 0 or a negative errno, EIO if it is no such cluster.
  int Load(const Cluster& cluster, std::shared_ptr<const std::byte[]>* out);

 private:
  struct Known {
    uint64_t offset, length;
    std::shared_ptr<const std::byte[]> bytes;
  };

  const Store& store_;
  const std::unique_ptr<Decompressor> decompressor_;
  std::list<Known> known_;  // what was used last comes first
};

}  // namespace vmm::qcow2
