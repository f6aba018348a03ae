#include "qcow2_compressed.h"

#include <errno.h>

#include <algorithm>
#include <vector>

namespace vmm::qcow2 {
namespace {

constexpr uint64_t kKnownBytesMax = 4 << 20;
constexpr size_t kKnownMax = 16;

}  // namespace

int CompressedClusters::Load(const Cluster& cluster, std::shared_ptr<const std::byte[]>* out) {
  const auto known = std::find_if(known_.begin(), known_.end(), [&](const Known& at) {
    return at.offset == cluster.offset && at.length == cluster.length;
  });
  if (known != known_.end()) {
    known_.splice(known_.begin(), known_, known);
    *out = known->bytes;
    return 0;
  }
  // The last sector of a file need not be whole.
  std::vector<std::byte> from(std::min(cluster.length, store_.file_bytes - cluster.offset));
  if (const int rc = store_.file->Read(cluster.offset, from); rc < 0) return AsIoError(rc);
  const size_t size = store_.header.cluster_bytes();
  std::shared_ptr<std::byte[]> bytes(new std::byte[size]);
  if (!decompressor_->Decompress(from, {bytes.get(), size})) return -EIO;
  known_.push_front({cluster.offset, cluster.length, bytes});
  if (known_.size() > std::clamp<size_t>(kKnownBytesMax / size, 1, kKnownMax)) known_.pop_back();
  *out = std::move(bytes);
  return 0;
}

}  // namespace vmm::qcow2
