#include "../../native/memory/file_window.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <utility>

#include "check.h"
#include "temporary_file.h"

namespace {

using vmm::FileWindow;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kWindow = 64 * kPage;

std::shared_ptr<FileWindow> Make(uint64_t size_bytes = kWindow) {
  std::shared_ptr<FileWindow> window;
  CHECK(FileWindow::Create(size_bytes, &window) == 0);
  return window;
}

/// A file of pages whose first byte is the number of the page.
vmm::Fd NumberedFile(int pages) {
  vmm::Fd file = TemporaryFile(static_cast<uint64_t>(pages) * kPage);
  for (int i = 0; i < pages; ++i) {
    const char byte = static_cast<char>(i);
    CHECK(pwrite(file.get(), &byte, 1, i * static_cast<off_t>(kPage)) == 1);
  }
  return file;
}

/// What a byte of the window is, or -1 if there is nothing. The kernel looks, for we must not.
int At(const FileWindow& window, uint64_t page) {
  unsigned char byte = 0;
  const iovec to{&byte, 1}, from{window.host() + page * kPage, 1};
  return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1 ? byte : -1;
}

bool Writable(const FileWindow& window, uint64_t page) {
  unsigned char byte = 7;
  const iovec from{&byte, 1}, to{window.host() + page * kPage + 1, 1};
  return process_vm_writev(getpid(), &from, 1, &to, 1, 0) == 1;
}

size_t MappingsOfProcess() {
  std::ifstream maps("/proc/self/maps");
  size_t lines = 0;
  for (std::string line; std::getline(maps, line);) ++lines;
  return lines;
}

void PartsComeAndGo() {
  const auto window = Make();
  const vmm::Fd file = NumberedFile(16);
  CHECK(At(*window, 0) == -1);

  CHECK(window->Map(0, 4 * kPage, file.get(), 8 * kPage, true) == 0);
  CHECK(At(*window, 0) == 8 && At(*window, 3) == 11 && At(*window, 4) == -1);
  CHECK(window->Map(kPage, kPage, file.get(), 2 * kPage, true) == 0);  // over a part of it
  CHECK(At(*window, 0) == 8 && At(*window, 1) == 2 && At(*window, 2) == 10);
  CHECK(window->Unmap(2 * kPage, kPage) == 0);
  CHECK(At(*window, 1) == 2 && At(*window, 2) == -1 && At(*window, 3) == 11);
  CHECK(window->Unmap(0, kWindow) == 0);
  CHECK(At(*window, 0) == -1 && At(*window, 3) == -1);
}

void WritesReachTheFileWhereTheyMay() {
  const auto window = Make();
  const vmm::Fd file = NumberedFile(2);
  CHECK(window->Map(0, kPage, file.get(), 0, true) == 0);
  CHECK(window->Map(kPage, kPage, file.get(), kPage, false) == 0);
  CHECK(Writable(*window, 0) && !Writable(*window, 1));
  CHECK(window->Sync(0, 2 * kPage) == 0);
  char byte = 0;
  CHECK(pread(file.get(), &byte, 1, 1) == 1 && byte == 7);
}

void RefusesWhatCannotBe() {
  std::shared_ptr<FileWindow> none;
  CHECK(FileWindow::Create(0, &none) == -EINVAL);
  CHECK(FileWindow::Create(kPage + 1, &none) == -EINVAL);
  CHECK(FileWindow::Create(uint64_t{1} << 60, &none) == -ENOMEM);
  const auto window = Make();
  const vmm::Fd file = NumberedFile(1);
  const auto map = [&](uint64_t offset, uint64_t len, int fd, uint64_t file_offset) {
    return window->Map(offset, len, fd, file_offset, true);
  };
  for (const uint64_t odd : {uint64_t{1}, kPage - 1, UINT64_MAX}) {
    CHECK(map(odd, kPage, file.get(), 0) == -EINVAL);
    CHECK(map(0, odd, file.get(), 0) == -EINVAL);
    CHECK(map(0, kPage, file.get(), odd) == -EINVAL);
    CHECK(window->Unmap(odd, kPage) == -EINVAL && window->Sync(0, odd) == -EINVAL);
  }
  CHECK(map(0, 0, file.get(), 0) == -EINVAL);
  CHECK(map(0, kPage, file.get(), UINT64_MAX - kPage + 1) == -EINVAL);
  constexpr uint64_t kLast = UINT64_MAX - kPage + 1;
  for (const auto& [offset, len] : {std::pair{kWindow, kPage},
                                    {kPage, kWindow},
                                    {kLast, kPage},
                                    {kPage, kLast},
                                    {kLast, kLast}}) {
    CHECK(map(offset, len, file.get(), 0) == -ERANGE);
    CHECK(window->Unmap(offset, len) == -ERANGE && window->Sync(offset, len) == -ERANGE);
  }
  const vmm::Fd null(open("/dev/zero", O_RDWR | O_CLOEXEC));
  CHECK(map(0, kPage, null.get(), 0) == -ENODEV);
  CHECK(map(0, kPage, -1, 0) == -EBADF);
  const vmm::Fd readonly(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  CHECK(map(0, kPage, readonly.get(), 0) == -EACCES);
  CHECK(window->Sync(0, kPage) == 0);  // nothing is there
  CHECK(At(*window, 0) == -1);
}

void PartsAreCounted() {
  constexpr uint64_t kPages = 40'000;
  const vmm::Fd file = NumberedFile(2);
  const size_t before = MappingsOfProcess();
  for (int i = 0; i < 2; ++i) {  // what a window had is free again after it
    const auto window = Make(kPages * kPage);
    uint64_t mapped = 0;
    int rc = 0;
    for (; mapped < kPages / 2 && rc == 0; ++mapped)
      rc = window->Map(2 * mapped * kPage, kPage, file.get(), 0, true);
    CHECK(rc == -ENOSPC && mapped == 16'385);
    CHECK(MappingsOfProcess() < 40'000);
    CHECK(window->Map(0, kPage, file.get(), kPage, true) == -ENOSPC);
    CHECK(window->Unmap(0, 3 * kPage) == 0);  // two of them
    CHECK(window->Map(0, 3 * kPage, file.get(), 0, true) == 0);
    CHECK(window->Unmap(kPage, kPage) == 0);  // which makes two of one
    CHECK(window->Unmap(kPage, kPage) == 0);  // and there is nothing any more
    CHECK(window->Map(kPage, kPage, file.get(), 0, true) == -ENOSPC);
    CHECK(window->Unmap(0, kPages * kPage) == 0);
    CHECK(window->Map(0, 3 * kPage, file.get(), 0, true) == 0);
  }
  CHECK(MappingsOfProcess() < before + 16);
}

}  // namespace

int main() {
  Test("parts of files come and go, also over each other", PartsComeAndGo);
  Test("what is written reaches the file, if it may", WritesReachTheFileWhereTheyMay);
  Test("odd places and lengths, and what is no file, are refused", RefusesWhatCannotBe);
  Test("parts are limited, and are free again when they go", PartsAreCounted);
}
