#include "qcow2_compressed.h"

#include <errno.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace vmm::qcow2 {
namespace {

constexpr uint64_t kKnownBytesMax = 4 << 20;
constexpr size_t kKnownMax = 16;

}  // namespace

CompressedClusters::Bytes CompressedClusters::Find(const Cluster& cluster) {
  const auto known = std::find_if(known_.begin(), known_.end(),
                                  [&](const Known& at) { return at.cluster == cluster; });
  if (known == known_.end()) return nullptr;
  known_.splice(known_.begin(), known_, known);
  return known->bytes;
}

void CompressedClusters::Keep(const Cluster& cluster, Bytes bytes) {
  if (Find(cluster) != nullptr) return;  // another queue wanted it, too
  known_.push_front({cluster, std::move(bytes)});
  const size_t most =
      std::clamp<size_t>(kKnownBytesMax / store_.header.cluster_bytes(), 1, kKnownMax);
  if (known_.size() > most) known_.pop_back();
}

int CompressedClusters::Load(const Cluster& cluster, uint64_t file_bytes, Bytes* out) const {
  // The last sector of a file need not be whole.
  std::vector<std::byte> from(std::min(cluster.length, file_bytes - cluster.offset));
  if (const int rc = store_.file->Read(cluster.offset, from); rc < 0) return AsIoError(rc);
  const size_t size = store_.header.cluster_bytes();
  std::shared_ptr<std::byte[]> bytes(new std::byte[size]);
  if (!decompressor_->Decompress(from, {bytes.get(), size})) return -EIO;
  *out = std::move(bytes);
  return 0;
}

}  // namespace vmm::qcow2
