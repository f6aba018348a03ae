/// An engine over an image of qcow2 that qemu-img made, on a file system that fills up.
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <thread>

#include "../../native/disk/open_disk_image.h"
#include "../../native/engines/block.h"
#include "block_guest.h"
#include "flag.h"
#include "temporary_file.h"

namespace {

using vmm::IoKind;

constexpr uint64_t kData = BlockGuest::kDataGpa;
constexpr uint32_t kClusterBytes = 64 << 10;
constexpr uint64_t kDiskBytes = 64 << 20;
constexpr uint64_t kSectors = kClusterBytes / 512;

/// A file system of 4 MiB that only the calling thread sees, and that goes with it.
class SmallFileSystem {
 public:
  SmallFileSystem() {
    CHECK(mkdtemp(path_.data()) != nullptr && unshare(CLONE_NEWNS) == 0);
    CHECK(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    CHECK(mount("none", path_.c_str(), "tmpfs", 0, "size=4m") == 0);
  }
  ~SmallFileSystem() {
    umount2(path_.c_str(), MNT_DETACH);
    rmdir(path_.c_str());
  }
  std::string At(const std::string& name) const { return path_ + "/" + name; }
  static void Run(const std::string& command) { CHECK(system(command.c_str()) == 0); }

 private:
  std::string path_ = "/tmp/vmm-small.XXXXXX";
};

void FullFileSystem(IoKind io) {
  const SmallFileSystem small;
  const std::string path = small.At("disk");
  SmallFileSystem::Run("qemu-img create -q -f qcow2 " + path + " 64M");
  SmallFileSystem::Run("head -c 1M /dev/zero > " + small.At("filler"));
  const vmm::Fd file(open(path.c_str(), O_RDWR | O_CLOEXEC));
  vmm::BlockOptions options;
  std::string why;
  CHECK(OpenDiskImage({{vmm::FileOf(file.get()), vmm::ImageFormat::kQcow2}}, false, &options.image,
                      &why) == 0);
  std::atomic<int> errors = 0;
  options.io = io;
  options.on_error = [&](const std::string&) { ++errors; };
  BlockGuest guest;
  vmm::BlockEngine engine(options);
  CHECK(engine.Start({guest.queue()}) == 0);
  const auto write = [&](uint64_t cluster) {
    guest.Fill(kData, static_cast<uint8_t>(cluster + 1), kClusterBytes);
    return guest.Do(VIRTIO_BLK_T_OUT, cluster * kSectors, {{kData, kClusterBytes}});
  };
  const auto holds = [&](uint64_t cluster) {
    CHECK(guest.Do(VIRTIO_BLK_T_IN, cluster * kSectors, {{kData, kClusterBytes, true}}) == 0);
    return guest.Holds(kData, static_cast<uint8_t>(cluster + 1), kClusterBytes);
  };

  uint64_t count = 0;
  while (count < kDiskBytes / kClusterBytes && write(count) == VIRTIO_BLK_S_OK) ++count;

  CHECK(count > 16 && count < 64 && errors == 1);
  for (uint64_t cluster = 0; cluster < count; ++cluster) CHECK(holds(cluster));
  SmallFileSystem::Run("rm " + small.At("filler"));
  CHECK(write(count) == VIRTIO_BLK_S_OK && holds(count));
  CHECK(guest.Do(VIRTIO_BLK_T_FLUSH, 0, {}) == VIRTIO_BLK_S_OK);
  Flag ended;
  engine.Stop(ended.Setter());
  CHECK(ended.Await());
  engine.Join();
  CHECK(options.image->Close() == 0);
  SmallFileSystem::Run("qemu-img check -q " + path);
}

}  // namespace

int main() {
  for (const auto& [io, name] : {std::pair(IoKind::kIoUring, "io_uring"), {IoKind::kSync, "sync"}})
    Test((std::string(name) + ": a full file system fails the writes that need room, no others")
             .c_str(),
         [io = io] { std::thread(FullFileSystem, io).join(); });
}
