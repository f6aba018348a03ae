#include <condition_variable>
#include <mutex>

#include "../../native/engines/block.h"
#include "block_guest.h"

namespace {

using vmm::BlockEngine;
using vmm::BlockOptions;
using vmm::IoKind;
using Piece = BlockGuest::Piece;

constexpr uint64_t kData = BlockGuest::kDataGpa;
constexpr uint64_t kDiskBytes = 4 << 20;

/// Something that another thread says once.
class Signal {
 public:
  std::function<void()> Give() {
    return [this] {
      const std::lock_guard lock(mutex_);
      given_ = true;
      changed_.notify_all();
    };
  }
  bool Await(int timeout_ms) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                             [this] { return given_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool given_ = false;
};

/// A disk with one queue and its driver. The image has no name: it is on the file system of /tmp.
class Disk {
 public:
  explicit Disk(IoKind io, const std::function<void(BlockOptions*)>& change = {}) {
    image_ = vmm::Fd(open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    CHECK(image_.ok() && ftruncate(image_.get(), kDiskBytes) == 0);
    BlockOptions options{"_disk0", image_.get(), kDiskBytes};
    options.io = io;
    options.discard = true;
    options.serial = "a serial of 20 bytes";
    options.on_error = [this](const std::string& message) {
      const std::lock_guard lock(mutex_);
      errors_.push_back(message);
    };
    if (change) change(&options);
    engine_ = std::make_unique<BlockEngine>(options);
    engine_->Start({std::nullopt, guest.queue()});
  }
  ~Disk() { Stop(); }

  void Stop() {
    Signal ended;
    engine_->Stop(ended.Give());
    CHECK(ended.Await(10'000));
    engine_->Join();
  }
  std::vector<std::string> errors() {
    const std::lock_guard lock(mutex_);
    return errors_;
  }
  int fd() const { return image_.get(); }
  BlockEngine& engine() { return *engine_; }
  uint8_t Byte(uint64_t offset) const {
    uint8_t byte = 0xee;
    CHECK(pread(image_.get(), &byte, 1, static_cast<off_t>(offset)) == 1);
    return byte;
  }

  BlockGuest guest;

 private:
  vmm::Fd image_;
  std::mutex mutex_;
  std::vector<std::string> errors_;
  std::unique_ptr<BlockEngine> engine_;
};

void WritesAndReads(IoKind io) {
  Disk disk(io);
  BlockGuest& guest = disk.guest;
  guest.Fill(kData, 0x5a, 3072);

  CHECK(guest.Do(VIRTIO_BLK_T_OUT, 3, {{kData, 1000, false}, {kData + 1000, 2072, false}}) ==
        VIRTIO_BLK_S_OK);
  CHECK(guest.written == 1);
  CHECK(disk.Byte(3 * 512 - 1) == 0 && disk.Byte(3 * 512) == 0x5a && disk.Byte(9 * 512) == 0);
  CHECK(guest.Do(VIRTIO_BLK_T_FLUSH, 0, {}) == VIRTIO_BLK_S_OK);
  CHECK(guest.Do(VIRTIO_BLK_T_IN, 3, {{kData + 8192, 1, true}, {kData + 9000, 3071, true}}) ==
        VIRTIO_BLK_S_OK);
  CHECK(guest.written == 3073);
  CHECK(guest.Holds(kData + 8192, 0x5a, 1) && guest.Holds(kData + 9000, 0x5a, 3071));
  CHECK(guest.Do(VIRTIO_BLK_T_GET_ID, 0, {{kData, 20, true}}) == VIRTIO_BLK_S_OK);
  CHECK(guest.written == 21 && std::memcmp(guest.at(kData), "a serial of 20 bytes", 20) == 0);
}

}  // namespace

int main() {
  const std::pair<IoKind, const char*> kinds[] = {
      {IoKind::kIoUring, "io_uring"}, {IoKind::kAio, "aio"}, {IoKind::kSync, "sync"}};
  for (const auto& [io, name] : kinds) {
    std::printf("%s: ", name);
    Test("what is written is read", [io = io] { WritesAndReads(io); });
  }
}
