#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

namespace vmm {

/// Addresses for parts of files, which come and go while a guest has them as a shared memory region
/// (VIRTIO 1.2 §2.10). It is no RAM: no device reads or writes there, and this process does not
/// either, so a file that is cut short, or a part that is not there, hurts the guest alone.
///
/// Methods may take long, for the files can be anybody's; any thread but the JS one. They return 0
/// or a negative errno.
class FileWindow {
 public:
  /// `size_bytes` of addresses, which cost no memory. A multiple of 4 KiB.
  static int Create(uint64_t size_bytes, std::shared_ptr<FileWindow>* out);
  ~FileWindow();
  FileWindow(const FileWindow&) = delete;
  FileWindow& operator=(const FileWindow&) = delete;

  uint64_t size_bytes() const { return size_bytes_; }
  /// Stays where it is. Any thread.
  std::byte* host() const { return host_; }

  /// Puts a part of a file where anything may have been before. `fd` is borrowed for the call.
  /// -EINVAL unless all are multiples of 4 KiB, -ERANGE beyond the window, -ENODEV if it is no
  /// regular file, -ENOSPC if there are too many parts.
  int Map(uint64_t offset, uint64_t len, int fd, uint64_t file_offset, bool writable);
  /// Takes away whatever is there.
  int Unmap(uint64_t offset, uint64_t len);
  /// What was written there is on its disk.
  int Sync(uint64_t offset, uint64_t len) const;

 private:
  FileWindow(std::byte* host, uint64_t size_bytes) : host_(host), size_bytes_(size_bytes) {}
  int Check(uint64_t offset, uint64_t len) const;
  size_t Leftovers(uint64_t start, uint64_t end) const;
  void Forget(uint64_t start, uint64_t end);

  std::byte* const host_;
  const uint64_t size_bytes_;
  std::mutex mutex_;                    // guards what follows, and that calls come one by one
  std::map<uint64_t, uint64_t> parts_;  // end by start
};

}  // namespace vmm
