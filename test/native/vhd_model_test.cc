#include <random>

#include "vhd_disk.h"

namespace {

constexpr uint64_t kSizeBytes = 20 << 20;
constexpr uint64_t kUnitBytes = 512;
constexpr uint64_t kRunBytesMax = 3 << 20;  // more than a block of a VHD

/// What a disk must hold, and the same sequence of changes for each seed.
class Model {
 public:
  Model(uint64_t size_bytes, uint32_t seed) : bytes_(size_bytes), random_(seed) {}

  const Data& bytes() const { return bytes_; }
  uint64_t Draw(uint64_t limit) { return random_() % limit; }

  /// Changes a stretch of the disk, mostly a small one, and of itself.
  void Change(Disk* disk) {
    const uint64_t most = Draw(8) == 0 ? kRunBytesMax : 64 * kUnitBytes;
    const uint64_t offset = Draw(bytes_.size() / kUnitBytes) * kUnitBytes;
    const uint64_t drawn = (Draw(most / kUnitBytes) + 1) * kUnitBytes;
    const uint64_t length = std::min(drawn, bytes_.size() - offset);
    const auto part = std::span(bytes_).subspan(offset, length);
    switch (Draw(8)) {
      case 0:
        std::fill(part.begin(), part.end(), std::byte{0});
        CHECK(disk->Zero(offset, length, Draw(2) == 0) == 0);
        break;
      case 1:
        std::fill(part.begin(), part.end(), std::byte{0});
        CHECK(disk->image().Discard({offset, length}) == 0);
        break;
      default:
        for (std::byte& byte : part) byte = static_cast<std::byte>(random_());
        CHECK(disk->Write(offset, part) == 0);
    }
  }

 private:
  Data bytes_;
  std::minstd_rand random_;
};

void CheckHolds(Disk* disk, const Data& bytes) {
  CHECK(disk->image().size_bytes() >= bytes.size());
  Data found(disk->image().size_bytes());
  CHECK(disk->Read(0, found) == 0);
  CHECK(std::equal(bytes.begin(), bytes.end(), found.begin()));
  CHECK(std::all_of(found.begin() + static_cast<ptrdiff_t>(bytes.size()), found.end(),
                    [](std::byte byte) { return byte == std::byte{0}; }));
}

void WriteRaw(const std::string& path, const Data& bytes) {
  const vmm::Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  CHECK(write(fd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
}

/// As `format` and `path`, qemu-img compare finds nothing but `bytes`.
void CheckQemuFinds(const Directory& directory, const Format& format, const std::string& path,
                    const Data& bytes) {
  WriteRaw(directory / "raw", bytes);
  CHECK(QemuImg({"compare", "-q", "-f", "raw", "-F", format.name, directory / "raw", path}));
  if (std::string(format.name) == "vhdx") CHECK(QemuImg({"check", "-q", "-f", format.name, path}));
}

void AsAByteArray() {
  for (const Format& format : kFormats)
    for (uint32_t seed = 1; seed <= 3; ++seed) {
      const Directory directory;
      const std::string path = directory / "image";
      MakeImage(format, path, kSizeBytes);
      Model model(kSizeBytes, seed);
      for (int reopened = 0; reopened < 3; ++reopened) {
        Disk disk(format, path);
        for (int changes = 0; changes < 40; ++changes) {
          model.Change(&disk);
          if (model.Draw(8) == 0) CHECK(disk.Flush() == 0);
        }
        CheckHolds(&disk, model.bytes());
      }
      CheckQemuFinds(directory, format, path, model.bytes());
    }
}

void WhatQemuWrote() {
  for (const Format& format : kFormats) {
    const Directory directory;
    const std::string path = directory / "image";
    Data bytes(kSizeBytes);
    std::minstd_rand random(7);
    // Blocks that are there, and blocks that are not.
    for (const uint64_t at : {uint64_t{0}, uint64_t{9} << 20, kSizeBytes - 4096})
      for (uint64_t i = 0; i < 4096; ++i) bytes[at + i] = static_cast<std::byte>(random());
    WriteRaw(directory / "raw", bytes);
    const std::string options = std::string("subformat=") + format.subformat;
    CHECK(QemuImg(
        {"convert", "-f", "raw", "-O", format.name, "-o", options, directory / "raw", path}));

    Disk disk(format, path, true);

    CheckHolds(&disk, bytes);
  }
}

}  // namespace

int main() {
  Test("any order of changes leaves what a byte array holds, to us and to QEMU", AsAByteArray);
  Test("what QEMU wrote is read as it was", WhatQemuWrote);
}
