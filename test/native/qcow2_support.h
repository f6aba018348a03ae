#pragma once
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../../native/base/fd.h"
#include "../../native/disk/qcow2.h"
#include "check.h"

/// A folder of its own, gone at the end with all that is in it.
class Folder {
 public:
  Folder() { CHECK(mkdtemp(path_.data()) != nullptr); }
  ~Folder() { CHECK(system(("rm -rf " + path_).c_str()) == 0); }
  std::string operator/(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_ = "/tmp/qcow2-test.XXXXXX";
};

/// Exit code of a command, which says nothing to anybody.
inline int Run(const std::string& command) {
  return WEXITSTATUS(system(("(" + command + ") > /dev/null 2>&1").c_str()));
}
inline void Shell(const std::string& command) {
  if (Run(command) == 0) return;
  std::fprintf(stderr, "failed: %s\n", command.c_str());
  abort();
}
/// Whether qemu-img finds nothing wrong, or nothing worse than clusters that nobody uses.
inline bool IsClean(const std::string& path) { return Run("qemu-img check -f qcow2 " + path) == 0; }
inline bool IsSound(const std::string& path) {
  const int code = Run("qemu-img check -f qcow2 " + path);
  return code == 0 || code == 3;
}
inline std::string MadeImage(const Folder& folder, const char* name, const std::string& options,
                             const std::string& size) {
  const std::string path = folder / name;
  Shell("qemu-img create -f qcow2 " + options + " " + path + " " + size);
  return path;
}

/// The file of an image, of which each change is seen before it happens, and may fail. A sync is
/// only told of: what a test says is on stable storage needs no disk to be.
class SeenFile : public vmm::ImageFile {
 public:
  enum class Change { kWrite, kResize, kPunch, kSync };
  /// `bytes` of kWrite. Returns 0, or the errno that it fails with.
  using Seen = std::function<int(Change, uint64_t offset, uint64_t length, const std::byte* bytes)>;

  SeenFile(const std::string& path, bool readonly, Seen seen = {})
      : SeenFile(vmm::Fd(open(path.c_str(), (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC)),
                 std::move(seen)) {}

  int Write(uint64_t offset, std::span<const std::byte> from) const override {
    const int rc = See(Change::kWrite, offset, from.size(), from.data());
    return rc < 0 ? rc : ImageFile::Write(offset, from);
  }
  int Sync() const override { return See(Change::kSync, 0, 0, nullptr); }
  int Resize(uint64_t size_bytes) const override {
    const int rc = See(Change::kResize, 0, size_bytes, nullptr);
    return rc < 0 ? rc : ImageFile::Resize(size_bytes);
  }
  int Punch(uint64_t offset, uint64_t length) const override {
    const int rc = See(Change::kPunch, offset, length, nullptr);
    return rc < 0 ? rc : ImageFile::Punch(offset, length);
  }

 private:
  SeenFile(vmm::Fd fd, Seen seen)
      : ImageFile({fd.get(), false, 1}), fd_(std::move(fd)), seen_(std::move(seen)) {
    CHECK(fd_.ok());
  }
  int See(Change change, uint64_t offset, uint64_t length, const std::byte* bytes) const {
    return seen_ ? seen_(change, offset, length, bytes) : 0;
  }

  const vmm::Fd fd_;
  const Seen seen_;
};

/// A disk that is a file as it is.
class RawDisk : public vmm::Image {
 public:
  RawDisk(const vmm::File& file, uint64_t size_bytes) : file_(file), size_(size_bytes) {}
  uint64_t size_bytes() const override { return size_; }
  int Read(vmm::DiskRange range, vmm::Extent* out) override {
    CHECK(range.length > 0 && range.offset + range.length <= size_);
    *out = {vmm::Extent::Kind::kFile, 0, range.offset, range.length, nullptr};
    return 0;
  }
  int BeginWrite(vmm::DiskRange, vmm::WritePlan*) override { return -EROFS; }
  int EndWrite(uint64_t, bool) override { return -EROFS; }
  int Discard(vmm::DiskRange) override { return -EROFS; }
  int Zero(vmm::DiskRange, bool, uint64_t*, uint64_t*) override { return -EROFS; }
  int Flush() override { return 0; }

 private:
  const vmm::File file_;
  const uint64_t size_;
};

/// An image with its files, and what the queue of a disk does with it, one request at a time.
class Disk {
 public:
  /// Ends the test if the image is refused.
  explicit Disk(const std::string& path, bool readonly = false, SeenFile::Seen seen = {})
      : Disk(path, readonly, std::move(seen), {}) {}
  /// `backing`: a raw file.
  static Disk Over(const std::string& path, const std::string& backing, SeenFile::Seen seen = {}) {
    Disk disk;
    disk.backing_ = vmm::Fd(open(backing.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat stat {};
    CHECK(fstat(disk.backing_.get(), &stat) == 0);
    const vmm::File file{disk.backing_.get(), false, 1};
    const auto size = static_cast<uint64_t>(stat.st_size);
    disk.Open(path, false, std::move(seen), {std::make_unique<RawDisk>(file, size), {file}});
    return disk;
  }

  vmm::Image& image() const { return *image_; }
  const vmm::ImageFile& file() const { return *file_; }
  uint64_t size() const { return image_->size_bytes(); }

  int Read(uint64_t offset, std::span<std::byte> into) const {
    while (!into.empty()) {
      vmm::Extent extent;
      if (const int rc = image_->Read({offset, into.size()}, &extent); rc < 0) return rc;
      CHECK(extent.length > 0 && extent.length <= into.size());
      const auto part = into.first(extent.length);
      std::fill(part.begin(), part.end(), std::byte{0});
      if (extent.kind == vmm::Extent::Kind::kBytes)
        std::memcpy(part.data(), extent.bytes.get() + extent.offset, part.size());
      if (extent.kind == vmm::Extent::Kind::kFile) {
        CHECK(extent.file < 2);
        const int fd = extent.file == 0 ? file_->file().fd : backing_.get();
        CHECK(pread(fd, part.data(), part.size(), static_cast<off_t>(extent.offset)) >= 0);
      }
      offset += part.size();
      into = into.subspan(part.size());
    }
    return 0;
  }
  std::vector<std::byte> ReadAll() const {
    std::vector<std::byte> bytes(size());
    CHECK(Read(0, bytes) == 0);
    return bytes;
  }

  int Write(uint64_t offset, std::span<const std::byte> from) const {
    while (!from.empty()) {
      vmm::WritePlan plan;
      if (const int rc = image_->BeginWrite({offset, from.size()}, &plan); rc < 0) return rc;
      CHECK(plan.length > 0 && plan.length <= from.size());
      std::vector<std::byte> bytes = plan.before;
      bytes.insert(bytes.end(), from.begin(), from.begin() + static_cast<ptrdiff_t>(plan.length));
      bytes.insert(bytes.end(), plan.after.begin(), plan.after.end());
      int rc = file_->Write(plan.offset, bytes);
      const int ended = image_->EndWrite(plan.ticket, rc == 0);
      if (rc = rc == 0 ? ended : rc; rc < 0) return rc;
      offset += plan.length;
      from = from.subspan(plan.length);
    }
    return 0;
  }
  int Fill(uint64_t offset, uint64_t length, uint8_t value) const {
    return Write(offset, std::vector<std::byte>(length, std::byte{value}));
  }
  int Zero(uint64_t offset, uint64_t length, bool unmap) const {
    while (length > 0) {
      uint64_t done = 0;
      uint64_t by_hand = 0;
      int rc = image_->Zero({offset, length}, unmap, &done, &by_hand);
      CHECK(rc < 0 || ((done > 0) != (by_hand > 0) && done + by_hand <= length));
      if (rc == 0 && by_hand > 0) rc = Write(offset, std::vector<std::byte>(by_hand));
      if (rc < 0) return rc;
      offset += done + by_hand;
      length -= done + by_hand;
    }
    return 0;
  }
  int Flush() const {
    const int rc = image_->Flush();
    return rc == 0 ? file_->Sync() : rc;
  }

 private:
  Disk() = default;
  Disk(const std::string& path, bool readonly, SeenFile::Seen seen, vmm::Qcow2Backing backing) {
    Open(path, readonly, std::move(seen), std::move(backing));
  }
  void Open(const std::string& path, bool readonly, SeenFile::Seen seen,
            vmm::Qcow2Backing backing) {
    auto file = std::make_unique<SeenFile>(path, readonly, std::move(seen));
    file_ = file.get();
    std::string why;
    const int rc = OpenQcow2(std::move(file), std::move(backing), readonly, &image_, &why);
    if (rc < 0) std::fprintf(stderr, "%s: %s\n", path.c_str(), why.c_str());
    CHECK(rc == 0);
  }

  vmm::Fd backing_;
  const vmm::ImageFile* file_ = nullptr;  // the image's
  std::unique_ptr<vmm::Image> image_;
};

inline uint64_t Draw(std::mt19937_64* random, uint64_t below) { return (*random)() % below; }
