#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "../base/event_fd.h"
#include "file.h"
#include "image.h"

namespace vmm {

/// What a disk is made of, open, as the queues of the disk share it.
class DiskImage {
 public:
  /// `files`: the image, what it is backed by, and so on, at least one; borrowed until Close.
  /// Without `image` the disk is the first file as it is.
  DiskImage(std::vector<File> files, uint64_t size_bytes, std::unique_ptr<Image> image = nullptr)
      : files_(std::move(files)), size_bytes_(size_bytes), image_(std::move(image)) {}

  const std::vector<File>& files() const { return files_; }
  /// Any thread; it may change meanwhile.
  uint64_t size_bytes() const { return size_bytes_.load(std::memory_order_relaxed); }
  uint32_t sector_bytes() const { return image_ == nullptr ? 512 : image_->sector_bytes(); }
  /// Null for a raw one.
  Image* image() const { return image_.get(); }

  /// Any thread. Image::BeginWrite: one that fails was in the way of others until then.
  int BeginWrite(DiskRange range, WritePlan* out);
  /// Any thread. Image::EndWrite, after which those who wait are woken up.
  int EndWrite(uint64_t ticket, bool written);
  /// Any thread. `kick` is signalled once, when a write ends, or fails to begin, that is in the way
  /// now. A request is tried again after this, not before, or that write could be missed.
  void AwaitWrite(std::shared_ptr<EventFd> kick);
  /// Gives a raw disk another size, a multiple of 512, while no request is in flight: a file gets
  /// it, a block device must have it. It may take long. 0 or a negative errno, and nothing changed:
  /// -EOPNOTSUPP of other formats, -EINVAL if the device has another size.
  int Resize(uint64_t size_bytes);
  /// Puts the image in order for whoever opens it next; nobody may use it any more. It may take
  /// long. 0 or a negative errno. Idempotent.
  int Close();

 private:
  void WakeUp();

  const std::vector<File> files_;
  std::atomic<uint64_t> size_bytes_;
  std::unique_ptr<Image> image_;
  std::atomic<bool> awaited_ = false;  // whether `kicks_` has any
  std::mutex mutex_;
  std::vector<std::shared_ptr<EventFd>> kicks_;
};

}  // namespace vmm
