#include <cstring>
#include <random>
#include <thread>
#include <utility>

#include "vhd_disk.h"

namespace {

constexpr uint64_t kSizeBytes = 12 << 20;
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
        for (size_t at = 0; at < length; at += kUnitBytes)
          std::fill_n(part.begin() + static_cast<ptrdiff_t>(at), kUnitBytes,
                      static_cast<std::byte>(random_()));
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
  Data expected = bytes;
  expected.resize(found.size());  // QEMU rounds the size of a VHD up
  CHECK(std::memcmp(found.data(), expected.data(), found.size()) == 0);
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
    for (uint32_t seed = 1; seed <= 2; ++seed) {
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

/// Behind so many blocks that the table of a VHDX has an entry for a bitmap among them.
void BeyondTheFirstBitmap() {
  constexpr uint64_t kOurs = (uint64_t{4} << 30) + (37 << 20);
  constexpr uint64_t kTheirs = kOurs + (5 << 20);
  const Directory directory;
  const std::string path = directory / "image";
  MakeImage(kDynamicVhdx, path, uint64_t{5} << 30, ",block_size=1M");
  CHECK(QemuIo({"-f", "vhdx", "-c", "write -P 5 " + std::to_string(kTheirs) + " 4k", path}));
  {
    Disk disk(kDynamicVhdx, path);
    Data found(4096);
    CHECK(disk.Read(kTheirs, found) == 0 && found == Data(4096, std::byte{5}));
    CHECK(disk.Write(kOurs, Data(4096, std::byte{6})) == 0);
  }
  for (const auto& [offset, pattern] : {std::pair(kOurs, "6"), std::pair(kTheirs, "5")}) {
    const std::string read = std::string("read -P ") + pattern + " " + std::to_string(offset);
    CHECK(QemuIo({"-f", "vhdx", "-c", read + " 4k", path}));
  }
}

/// Each thread has units of its own in blocks that all of them make.
void ManyQueues() {
  constexpr uint64_t kThreads = 4;
  constexpr uint64_t kUnits = kSizeBytes / kUnitBytes;
  for (const Format& format : {kDynamicVhd, kDynamicVhdx}) {
    const Directory directory;
    MakeImage(format, directory / "image", kSizeBytes);
    Data expected(kSizeBytes);
    {
      Disk disk(format, directory / "image");
      std::vector<std::thread> threads;
      for (uint64_t thread = 0; thread < kThreads; ++thread)
        threads.emplace_back([&disk, &expected, thread] {
          for (uint64_t unit = thread; unit < kUnits; unit += 97 * kThreads) {
            const auto part = std::span(expected).subspan(unit * kUnitBytes, kUnitBytes);
            std::fill(part.begin(), part.end(), static_cast<std::byte>(unit | 1));
            CHECK(disk.Write(unit * kUnitBytes, part) == 0);
            if (unit % 5 == 0) CHECK(disk.Flush() == 0);
          }
        });
      for (std::thread& thread : threads) thread.join();
    }
    Disk disk(format, directory / "image", true);
    CheckHolds(&disk, expected);
  }
}

}  // namespace

int main() {
  Test("any order of changes leaves what a byte array holds, to us and to QEMU", AsAByteArray);
  Test("what QEMU wrote is read as it was", WhatQemuWrote);
  Test("QEMU and we find the same blocks of a large VHDX", BeyondTheFirstBitmap);
  Test("queues that make the same blocks at once lose nothing", ManyQueues);
}
