#include "disk_image.h"

#include <algorithm>
#include <utility>

namespace vmm {

int DiskImage::EndWrite(uint64_t ticket, bool written) {
  const int rc = image_->EndWrite(ticket, written);
  // Whoever found this write in its way did so, under the image's mutex, after it had set this.
  if (!awaited_.load()) return rc;
  const std::lock_guard lock(mutex_);
  awaited_.store(false);
  for (const auto& kick : std::exchange(kicks_, {})) kick->Signal();
  return rc;
}

void DiskImage::AwaitWrite(std::shared_ptr<EventFd> kick) {
  const std::lock_guard lock(mutex_);
  if (std::find(kicks_.begin(), kicks_.end(), kick) == kicks_.end())
    kicks_.push_back(std::move(kick));
  awaited_.store(true);
}

int DiskImage::Close() {
  const auto image = std::exchange(image_, nullptr);
  return image == nullptr ? 0 : image->Flush();
}

}  // namespace vmm
