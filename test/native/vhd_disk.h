#pragma once
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "../../native/base/fd.h"
#include "../../native/disk/image.h"
#include "../../native/disk/vhd.h"
#include "../../native/disk/vhdx.h"
#include "check.h"

/// What the tests of VHD and VHDX share: files, qemu-img, and a disk that moves its data at once.

using Data = std::vector<std::byte>;

/// A directory that is gone at the end, with all in it.
class Directory {
 public:
  Directory() { CHECK(mkdtemp(path_.data()) != nullptr); }
  ~Directory() { std::filesystem::remove_all(path_); }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_ = "/var/tmp/vhd-XXXXXX";
};

/// Whether a program of QEMU's says that all is well. It must be installed.
inline bool Qemu(const char* program, std::vector<std::string> args) {
  args.insert(args.begin(), program);
  std::vector<char*> argv;
  argv.reserve(args.size() + 1);
  for (std::string& arg : args) argv.push_back(arg.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  CHECK(posix_spawn_file_actions_init(&actions) == 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t pid = 0;
  CHECK(posix_spawnp(&pid, program, &actions, nullptr, argv.data(), environ) == 0);
  posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  CHECK(waitpid(pid, &status, 0) == pid);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

inline bool QemuImg(std::vector<std::string> args) { return Qemu("qemu-img", std::move(args)); }
inline bool QemuIo(std::vector<std::string> args) { return Qemu("qemu-io", std::move(args)); }

struct Format {
  const char* name;       ///< as qemu-img calls it
  const char* subformat;  ///< likewise
  int (*open)(const vmm::File&, bool, std::unique_ptr<vmm::Image>*, std::string*);
};

constexpr Format kDynamicVhd = {"vpc", "dynamic", vmm::OpenVhd};
constexpr Format kFixedVhd = {"vpc", "fixed", vmm::OpenVhd};
constexpr Format kDynamicVhdx = {"vhdx", "dynamic", vmm::OpenVhdx};
constexpr Format kFixedVhdx = {"vhdx", "fixed", vmm::OpenVhdx};
constexpr Format kFormats[] = {kDynamicVhd, kFixedVhd, kDynamicVhdx, kFixedVhdx};

inline void MakeImage(const Format& format, const std::string& path, uint64_t size_bytes,
                      const std::string& more = "") {
  const std::string options = std::string("subformat=") + format.subformat + more;
  CHECK(QemuImg(
      {"create", "-q", "-f", format.name, "-o", options, path, std::to_string(size_bytes)}));
}

/// What is in `path` from `offset` on.
inline Data Contents(const std::string& path, uint64_t offset, size_t length) {
  const vmm::Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  Data bytes(length);
  CHECK(pread(fd.get(), bytes.data(), length, static_cast<off_t>(offset)) ==
        static_cast<ssize_t>(length));
  return bytes;
}

inline Data Contents(const std::string& path) {
  return Contents(path, 0, std::filesystem::file_size(path));
}

inline void Patch(const std::string& path, uint64_t offset, std::span<const std::byte> bytes) {
  const vmm::Fd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  CHECK(pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)) ==
        static_cast<ssize_t>(bytes.size()));
}

/// What OpenVhd or OpenVhdx returns.
inline int Open(const Format& format, const std::string& path, std::string* why,
                bool readonly = false) {
  const vmm::Fd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  std::unique_ptr<vmm::Image> image;
  const int rc = format.open({.fd = fd.get()}, readonly, &image, why);
  CHECK((rc == 0) == (image != nullptr));
  return rc;
}

/// An image that is open, and what a queue does with it.
class Disk {
 public:
  Disk(const Format& format, const std::string& path, bool readonly = false)
      : opened_(open(path.c_str(), (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC)),
        fd_(opened_.get()) {
    CHECK(opened_.ok());
    Open(format, {.fd = fd_}, readonly);
  }
  Disk(const Format& format, const vmm::File& file, bool readonly = false) : fd_(file.fd) {
    Open(format, file, readonly);
  }

  vmm::Image& image() { return *image_; }
  int fd() const { return fd_; }

  /// 0 or a negative errno, as the guest is told.
  int Read(uint64_t offset, std::span<std::byte> into) {
    while (!into.empty()) {
      vmm::Extent extent;
      if (const int rc = image_->Read({offset, into.size()}, &extent); rc < 0) return rc;
      CHECK(extent.length > 0 && extent.length <= into.size());
      const auto part = into.first(extent.length);
      if (extent.kind == vmm::Extent::Kind::kZero)
        std::fill(part.begin(), part.end(), std::byte{0});
      else if (pread(fd_, part.data(), part.size(), static_cast<off_t>(extent.offset)) !=
               static_cast<ssize_t>(part.size()))
        return -EIO;
      into = into.subspan(part.size());
      offset += part.size();
    }
    return 0;
  }

  int Write(uint64_t offset, std::span<const std::byte> from) {
    while (!from.empty()) {
      vmm::WritePlan plan;
      if (const int rc = image_->BeginWrite({offset, from.size()}, &plan); rc < 0) return rc;
      CHECK(plan.length > 0 && plan.length <= from.size());
      CHECK(plan.before.empty() && plan.after.empty());
      const auto part = from.first(plan.length);
      const bool written = pwrite(fd_, part.data(), part.size(), static_cast<off_t>(plan.offset)) ==
                           static_cast<ssize_t>(part.size());
      if (const int rc = image_->EndWrite(plan.ticket, written); rc < 0 || !written) return -EIO;
      from = from.subspan(part.size());
      offset += part.size();
    }
    return 0;
  }

  int Zero(uint64_t offset, uint64_t length, bool unmap) {
    while (length > 0) {
      uint64_t done = 0, by_hand = 0;
      if (const int rc = image_->Zero({offset, length}, unmap, &done, &by_hand); rc < 0) return rc;
      CHECK((done == 0) != (by_hand == 0) && done + by_hand <= length);
      if (const int rc = by_hand > 0 ? Write(offset, Data(by_hand)) : 0; rc < 0) return rc;
      offset += done + by_hand;
      length -= done + by_hand;
    }
    return 0;
  }

  int Flush() {
    const int rc = image_->Flush();
    return rc < 0 ? rc : fdatasync(fd_);
  }

 private:
  void Open(const Format& format, const vmm::File& file, bool readonly) {
    std::string why;
    const int rc = format.open(file, readonly, &image_, &why);
    if (rc < 0) std::fprintf(stderr, "%s\n", why.c_str());
    CHECK(rc == 0);
  }

  const vmm::Fd opened_;
  const int fd_;
  std::unique_ptr<vmm::Image> image_;
};
