#include "disk_image.h"

#include <errno.h>

#include <algorithm>
#include <utility>

#include "image_file.h"

namespace vmm {

int DiskImage::BeginWrite(DiskRange range, WritePlan* out) {
  const int rc = image_->BeginWrite(range, out);
  if (rc < 0 && rc != -EBUSY) WakeUp();
  return rc;
}

int DiskImage::EndWrite(uint64_t ticket, bool written) {
  const int rc = image_->EndWrite(ticket, written);
  WakeUp();
  return rc;
}

/// Whoever found a write in its way did so, under the image's mutex, after it had set `awaited_`.
void DiskImage::WakeUp() {
  if (!awaited_.load()) return;
  const std::lock_guard lock(mutex_);
  awaited_.store(false);
  for (const auto& kick : std::exchange(kicks_, {})) kick->Signal();
}

void DiskImage::AwaitWrite(std::shared_ptr<EventFd> kick) {
  const std::lock_guard lock(mutex_);
  if (std::find(kicks_.begin(), kicks_.end(), kick) == kicks_.end())
    kicks_.push_back(std::move(kick));
  awaited_.store(true);
}

int DiskImage::Resize(uint64_t size_bytes) {
  if (image_ != nullptr) return -EOPNOTSUPP;
  const ImageFile file(files_[0]);
  if (files_[0].block_device) {
    uint64_t has_bytes = 0;
    if (const int rc = file.Size(&has_bytes); rc < 0) return rc;
    if (has_bytes != size_bytes) return -EINVAL;
  } else if (const int rc = file.Resize(size_bytes); rc < 0) {
    return rc;
  }
  size_bytes_.store(size_bytes, std::memory_order_relaxed);
  return 0;
}

int DiskImage::Close() {
  const auto image = std::exchange(image_, nullptr);
  return image == nullptr ? 0 : image->Flush();
}

}  // namespace vmm
