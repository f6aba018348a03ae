#include "qcow2.h"

#include <errno.h>

#include <algorithm>
#include <utility>

#include "inflate.h"
#include "qcow2_image.h"

namespace vmm {
namespace {

int Fail(int rc, const char* reason, std::string* why) {
  *why = reason;
  return rc;
}

int ReadHeader(const ImageFile& file, uint64_t file_bytes, bool readonly, Qcow2Header* out,
               std::string* why) {
  std::vector<std::byte> bytes(std::min<uint64_t>(file_bytes, kQcow2HeaderBytes));
  if (const int rc = file.Read(0, bytes); rc < 0) return Fail(rc, "its header cannot be read", why);
  *why = ParseQcow2Header(bytes, file_bytes, readonly, out);
  return why->empty() ? 0 : -EINVAL;
}

/// What is written comes in whole clusters.
int RoundFile(qcow2::Store* store, std::string* why) {
  const uint64_t cluster_bytes = store->header.cluster_bytes();
  const uint64_t rest = store->file_bytes % cluster_bytes;
  store->file_bytes -= rest;
  if (rest == 0 || store->file->file().block_device) return 0;
  store->file_bytes += cluster_bytes;
  const int rc = store->file->Resize(store->file_bytes);
  return rc < 0 ? Fail(rc, "its file cannot be grown", why) : 0;
}

}  // namespace

int OpenQcow2(std::unique_ptr<ImageFile> file, Qcow2Backing backing, bool readonly,
              std::unique_ptr<Image>* out, std::string* why) {
  qcow2::Store store;
  store.file = std::move(file);
  if (const int rc = store.file->Size(&store.file_bytes); rc < 0)
    return Fail(rc, "its size cannot be found out", why);
  if (const int rc = ReadHeader(*store.file, store.file_bytes, readonly, &store.header, why);
      rc < 0)
    return rc;
  if (!store.header.backing_file.empty() && backing.image == nullptr) {
    *why = "it has a backing file, " + store.header.backing_file +
           "; 'qemu-img convert' makes an image without";
    return -EINVAL;
  }
  std::unique_ptr<Decompressor> decompressor = store.header.zstd ? MakeZstd() : MakeInflate();
  if (decompressor == nullptr)
    return Fail(-ENOTSUP, "it is compressed with zstd, and this host has no libzstd.so.1", why);
  if (!readonly)
    if (const int rc = RoundFile(&store, why); rc < 0) return rc;
  auto image = std::make_unique<qcow2::Qcow2Image>(std::move(store), std::move(backing),
                                                   std::move(decompressor), readonly);
  const int rc = image->Open();
  if (rc == -EINVAL)
    return Fail(rc, "two of its tables lie in one place; 'qemu-img check -r all' repairs it", why);
  if (rc < 0) return Fail(rc, "its tables cannot be read, or its header not be written", why);
  *out = std::move(image);
  return 0;
}

}  // namespace vmm
