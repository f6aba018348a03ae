#pragma once
#include <errno.h>

#include <cstdint>
#include <memory>

#include "image_file.h"
#include "qcow2_header.h"
#include "qcow2_metadata.h"

namespace vmm::qcow2 {

/// Takes the place of what an image names as a table outside its file: it stays outside, however
/// the file grows.
constexpr uint64_t kNoTable = kOffsetMask;

/// The file of an open image, and what all that change it must agree on.
struct Store {
  std::unique_ptr<ImageFile> file;
  Qcow2Header header;
  uint64_t file_bytes = 0;  ///< whole clusters, if it is written
  Metadata metadata;
  /// Something has been written since the last Sync that must be on stable storage before a table
  /// in the file may name what is new.
  bool unsynced = false;

  uint64_t OffsetOf(uint64_t cluster) const { return cluster << header.cluster_bits; }
  uint64_t ClusterOf(uint64_t offset) const { return offset >> header.cluster_bits; }
  uint64_t end_cluster() const { return ClusterOf(file_bytes); }
  bool IsTable(uint64_t offset) const {
    return offset != 0 && offset % header.cluster_bytes() == 0 && offset < file_bytes &&
           header.cluster_bytes() <= file_bytes - offset;
  }

  int Sync() {
    const int rc = file->Sync();
    if (rc == 0) unsynced = false;
    return rc;
  }
  /// What is added reads as zeroes. A block device never grows.
  int GrowTo(uint64_t cluster) {
    if (cluster <= end_cluster()) return 0;
    if (file->file().block_device || cluster > kOffsetMask >> header.cluster_bits) return -ENOSPC;
    int rc = file->CutTo(file_bytes);
    if (rc == 0) rc = file->Resize(OffsetOf(cluster));
    if (rc == 0) file_bytes = OffsetOf(cluster);
    return rc;
  }
};

/// What the file lacks of a table is its own fault, not the host's.
inline int AsIoError(int rc) { return rc == -ENODATA ? -EIO : rc; }

}  // namespace vmm::qcow2
