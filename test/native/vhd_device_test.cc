/// Dynamic images on block devices: they grow as far as the device goes.

#include <linux/loop.h>
#include <sys/ioctl.h>

#include "vhd_disk.h"

namespace {

constexpr uint64_t kSectorBytes = 512;
constexpr uint64_t kBlockBytes = 2 << 20;
constexpr uint64_t kBlocks = 16;
constexpr std::byte kJunk{0xaa};

/// The file `path` as a block device.
class LoopDevice {
 public:
  explicit LoopDevice(const std::string& path) : file_(open(path.c_str(), O_RDWR | O_CLOEXEC)) {
    const vmm::Fd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    CHECK(file_.ok() && control.ok());
    loop_config config{};
    config.fd = static_cast<uint32_t>(file_.get());
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
    for (int tries = 0; !device_.ok(); ++tries) {  // another process may be faster
      const int free = ioctl(control.get(), LOOP_CTL_GET_FREE);
      path_ = "/dev/loop" + std::to_string(free);
      vmm::Fd device(open(path_.c_str(), O_RDWR | O_CLOEXEC));
      CHECK(device.ok() && tries < 100);
      if (ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) device_ = std::move(device);
    }
  }
  const std::string& path() const { return path_; }
  vmm::File file() const { return vmm::FileOf(device_.get()); }

 private:
  const vmm::Fd file_;
  std::string path_;
  vmm::Fd device_;
};

void CheckGrowth(const Format& format, const std::string& options) {
  constexpr uint64_t kRoom = 3;  // blocks that have room behind the image, and a bit of another
  const Directory directory;
  const std::string path = directory / "image";
  MakeImage(format, path, kBlocks * kBlockBytes, options);
  CHECK(QemuIo({"-f", format.name, "-c", "write -P 1 0 512", path}));
  const uint64_t image_bytes = std::filesystem::file_size(path);
  Patch(path, image_bytes, Data((kRoom + 1) * kBlockBytes - (1 << 20), kJunk));
  const LoopDevice device(path);
  Data expected(kBlocks * kBlockBytes);
  std::fill_n(expected.begin(), kSectorBytes, std::byte{1});
  {
    Disk disk(format, device.file());
    for (uint64_t block = 1; block < kBlocks; ++block) {
      const uint64_t at = block * kBlockBytes + 4096;
      const auto value = static_cast<std::byte>(block + 1);
      const int rc = disk.Write(at, Data(kSectorBytes, value));
      CHECK(rc == (block <= kRoom ? 0 : -ENOSPC));
      if (rc == 0) std::fill_n(&expected[at], kSectorBytes, value);
    }
    CHECK(disk.Write(0, Data(kSectorBytes, std::byte{9})) == 0);
    std::fill_n(expected.begin(), kSectorBytes, std::byte{9});
    CHECK(disk.image().Flush() == 0);
    Data found(expected.size());
    CHECK(disk.Read(0, found) == 0 && found == expected);
  }
  Data found(expected.size());
  CHECK(Disk(format, device.file(), true).Read(0, found) == 0 && found == expected);
  CHECK(QemuImg({"convert", "-f", format.name, "-O", "raw", device.path(), directory / "raw"}));
  CHECK(Contents(directory / "raw", 0, expected.size()) == expected);
}

void GrowsWithinTheDevice() {
  CheckGrowth(kDynamicVhd, ",force_size=on");
  CheckGrowth(kDynamicVhdx, ",block_size=2M");
}

/// Nobody gives them room, and nothing behind them is lost.
void FullDevice() {
  for (const Format& format : {kDynamicVhd, kDynamicVhdx}) {
    const Directory directory;
    const std::string path = directory / "image";
    MakeImage(format, path, kBlocks * kBlockBytes);
    const Data before = Contents(path);
    const LoopDevice device(path);
    Disk disk(format, device.file());
    CHECK(disk.Write(0, Data(kSectorBytes, std::byte{9})) == -ENOSPC);
    CHECK(disk.image().Flush() == 0);
    Data found(kSectorBytes);
    CHECK(disk.Read(0, found) == 0 && found == Data(kSectorBytes));
    if (format.open == vmm::OpenVhd) CHECK(Contents(device.path(), 0, before.size()) == before);
  }
}

}  // namespace

int main() {
  Test("a dynamic image grows on a device as far as that goes", GrowsWithinTheDevice);
  Test("a dynamic image on a device that is full has I/O errors and stays whole", FullDevice);
}
