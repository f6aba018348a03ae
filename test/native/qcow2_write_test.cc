/// What we write, QEMU finds in order, and reads as we meant it.

#include <thread>

#include "../../native/disk/qcow2_table_cache.h"
#include "qcow2_model.h"

namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr int kRequests = 400;

std::string Comparable(const Folder& folder, const Disk& disk) {
  const std::string raw = folder / "expected";
  FILE* file = fopen(raw.c_str(), "w");
  const std::vector<std::byte> bytes = disk.ReadAll();
  CHECK(file != nullptr && fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size());
  fclose(file);
  return raw;
}

void CheckRandomly(const std::string& options, const std::string& cluster) {
  const Folder folder;
  const std::string size = std::to_string(3 * kMiB + 512);
  const std::string path = MadeImage(folder, "image", options + ",cluster_size=" + cluster, size);
  std::mt19937_64 random(std::hash<std::string>{}(options + cluster));
  Model model(3 * kMiB + 512);
  std::string raw;
  for (int session = 0; session < 3; ++session) {
    {
      const Disk disk(path);
      for (int i = 0; i < kRequests; ++i) CHECK(DoSomething(disk, &model, &random) == 0);
      CHECK(model.IsNow(disk.ReadAll()));
      raw = Comparable(folder, disk);
    }
    CHECK(IsClean(path));
    CHECK(Run("qemu-img compare -f raw -F qcow2 " + raw + " " + path) == 0);
  }
}

void RandomRequests() {
  for (const char* options : {"-o compat=0.10", "-o compat=1.1", "-o refcount_bits=1",
                              "-o refcount_bits=64", "-o preallocation=metadata"})
    for (const char* cluster : {"512", "4k", "64k", "2M"}) CheckRandomly(options, cluster);
}

void RandomOverBacking() {
  const Folder folder;
  const std::string raw = folder / "base";
  for (const char* options : {"-o compat=0.10", "-o compat=1.1,cluster_size=4k"}) {
    Shell("seq 1 300000 > " + raw + " && truncate -s 1000448 " + raw);
    const std::string backed = std::string(options) + " -F raw -b " + raw;
    const std::string path = MadeImage(folder, "image", backed, "2M");
    std::mt19937_64 random(5);
    std::vector<std::byte> expected;
    {
      const Disk disk = Disk::Over(path, raw);
      expected = disk.ReadAll();
      Model model(2 * kMiB);
      for (int i = 0; i < kRequests; ++i) {
        const uint64_t offset = Draw(&random, 4000) * 512;
        const std::vector<std::byte> data((1 + Draw(&random, 96)) * 512, std::byte{7});
        const bool zero = Draw(&random, 4) == 0;
        CHECK((zero ? disk.Zero(offset, data.size(), i % 2 == 0) : disk.Write(offset, data)) == 0);
        std::fill_n(expected.begin() + static_cast<ptrdiff_t>(offset), data.size(),
                    zero ? std::byte{0} : std::byte{7});
        if (i % 20 == 0) CHECK(disk.Flush() == 0);
      }
      CHECK(disk.ReadAll() == expected);
    }
    CHECK(IsClean(path));
    CHECK(Disk::Over(path, raw).ReadAll() == expected);
  }
}

/// As `-c` writes it, with what is written over it: each cluster of the file is used by several.
void OverCompressed() {
  const Folder folder;
  const std::string raw = folder / "source";
  Shell("seq 1 300000 > " + raw + " && truncate -s 2M " + raw);
  const std::string path = folder / "image";
  Shell("qemu-img convert -c -O qcow2 " + raw + " " + path);
  std::vector<std::byte> expected;
  {
    const Disk disk(path);
    expected = disk.ReadAll();
    for (uint64_t offset = 512; offset < 2 * kMiB; offset += 96 * 1024) {
      CHECK(disk.Fill(offset, 4096, 5) == 0);
      std::fill_n(expected.begin() + static_cast<ptrdiff_t>(offset), 4096, std::byte{5});
    }
    CHECK(disk.image().Discard({kMiB, kMiB / 2}) == 0);
    std::fill_n(expected.begin() + kMiB, kMiB / 2, std::byte{0});
    CHECK(disk.ReadAll() == expected);
  }
  CHECK(IsClean(path) && Disk(path, true).ReadAll() == expected);
}

void Snapshots() {
  const Folder folder;
  for (const char* cluster : {"512", "64k"}) {
    const std::string path =
        MadeImage(folder, "image", std::string("-o cluster_size=") + cluster, "2M");
    Shell("qemu-io -c 'write -P 1 0 1M' " + path + " && qemu-img snapshot -c before " + path);
    {
      const Disk disk(path);
      CHECK(disk.Fill(4096, 200 << 10, 2) == 0 && disk.Fill(kMiB, 1024, 2) == 0);
      CHECK(disk.Zero(512 << 10, 256 << 10, true) == 0 && disk.Flush() == 0);
      CHECK(disk.Fill(600 << 10, 4096, 3) == 0);
    }
    CHECK(IsClean(path));
    Shell("qemu-img snapshot -a before " + path);
    Shell("qemu-io -c 'read -P 1 0 1M' -c 'read -P 0 1M 1M' " + path + " | (! grep -i fail)");
    CHECK(IsClean(path));
  }
}

/// 64 bits a refcount and small clusters: the first table names the blocks of 2 MiB only.
void TableGrows() {
  const Folder folder;
  const std::string path =
      MadeImage(folder, "image", "-o cluster_size=512,refcount_bits=64", "24M");
  {
    const Disk disk(path);
    for (uint64_t offset = 0; offset < 24 * kMiB; offset += kMiB)
      CHECK(disk.Fill(offset, kMiB, static_cast<uint8_t>(offset / kMiB + 1)) == 0);
  }
  CHECK(IsClean(path));
  const Disk disk(path, true);
  std::vector<std::byte> last(512);
  CHECK(disk.Read(24 * kMiB - 512, last) == 0 && last[511] == std::byte{24});
}

uint64_t FileBytes(const std::string& path) {
  struct stat stat {};
  CHECK(::stat(path.c_str(), &stat) == 0);
  return static_cast<uint64_t>(stat.st_size);
}

void Reuse() {
  const Folder folder;
  const std::string path = MadeImage(folder, "image", "", "64M");
  for (int session = 0; session < 2; ++session) {
    const Disk disk(path);
    for (int i = 0; i < 10; ++i) {
      CHECK(disk.Fill(0, 8 * kMiB, 1) == 0);
      CHECK(disk.image().Discard({0, 8 * kMiB}) == 0 && disk.Flush() == 0);
    }
    struct stat stat {};
    CHECK(::stat(path.c_str(), &stat) == 0);
    CHECK(stat.st_size < 40 << 20 && stat.st_blocks * 512 < 1 << 20);
  }
  CHECK(IsClean(path));
}

void Tight() {
  const Folder folder;
  const std::string path = MadeImage(folder, "image", "", "64M");
  CHECK(Disk(path).Fill(0, 64 << 10, 1) == 0);
  CHECK(FileBytes(path) <= 7 << 16 && IsClean(path));
}

/// Whoever makes a cluster has it alone; what is in place has it with all but a discard.
void Busy() {
  const Folder folder;
  const std::string path = MadeImage(folder, "image", "", "2M");
  const Disk disk(path);
  vmm::WritePlan first, second;
  vmm::Image& image = disk.image();
  CHECK(image.BeginWrite({65536, 512}, &first) == 0);
  CHECK(image.BeginWrite({66048, 512}, &second) == -EBUSY);
  CHECK(image.BeginWrite({0, 131072}, &second) == 0 && second.length == 65536);
  CHECK(image.EndWrite(second.ticket, true) == 0 && image.EndWrite(first.ticket, true) == 0);
  CHECK(image.BeginWrite({65536, 512}, &first) == 0);
  CHECK(image.BeginWrite({66048, 512}, &second) == 0 && second.offset == first.offset + 512);
  CHECK(image.EndWrite(second.ticket, true) == 0);
  uint64_t done = 0;
  uint64_t by_hand = 0;
  CHECK(image.Discard({0, 131072}) == -EBUSY);
  CHECK(image.Zero({65536, 65536}, true, &done, &by_hand) == -EBUSY);
  CHECK(image.EndWrite(first.ticket, true) == 0 && image.Discard({0, 131072}) == 0);
}

/// What a failed write left in its clusters is not found in those of later ones, of which so many
/// follow that they are used again.
void FailedWrite() {
  const Folder folder;
  const std::string path = MadeImage(folder, "image", "", "20M");
  {
    const Disk disk(path);
    vmm::WritePlan plan;
    CHECK(disk.image().BeginWrite({0, 65536}, &plan) == 0);
    const std::vector<std::byte> junk(32768, std::byte{9});
    CHECK(disk.file().Write(plan.offset, junk) == 0);
    CHECK(disk.image().EndWrite(plan.ticket, false) == 0);
    CHECK(disk.ReadAll() == std::vector<std::byte>(20 * kMiB));
    for (uint64_t offset = 0; offset < 20 * kMiB; offset += 65536)
      CHECK(disk.Fill(offset, 512, 1) == 0);
  }
  CHECK(IsClean(path) && FileBytes(path) < 21 * kMiB);
  const std::vector<std::byte> bytes = Disk(path, true).ReadAll();
  CHECK(std::count(bytes.begin(), bytes.end(), std::byte{1}) == 320 * 512);
  CHECK(std::count(bytes.begin(), bytes.end(), std::byte{9}) == 0);
}

/// Four queues, whose parts of the disk share clusters at their ends.
void Threads() {
  const Folder folder;
  const std::string path = MadeImage(folder, "image", "", "2M");
  constexpr uint64_t kPart = 300 << 10;
  {
    const Disk disk(path);
    const auto work = [&disk](uint64_t part) {
      std::mt19937_64 random(part);
      for (int i = 0; i < 200; ++i) {
        const uint64_t at = part * kPart + Draw(&random, kPart / 512) * 512;
        int rc = -EBUSY;
        while (rc == -EBUSY) rc = disk.Fill(at, 512, static_cast<uint8_t>(part + 1));
        CHECK(rc == 0 && (i % 16 > 0 || disk.Flush() == 0));
        std::vector<std::byte> bytes(512);
        CHECK(disk.Read(at, bytes) == 0 && bytes[0] == static_cast<std::byte>(part + 1));
      }
    };
    std::vector<std::thread> queues;
    for (uint64_t part = 0; part < 4; ++part) queues.emplace_back(work, part);
    for (std::thread& queue : queues) queue.join();
    const std::vector<std::byte> bytes = disk.ReadAll();
    for (uint64_t at = 0; at < bytes.size(); ++at)
      CHECK(bytes[at] == std::byte{0} || bytes[at] == static_cast<std::byte>(at / kPart + 1));
  }
  CHECK(IsClean(path));
}

/// What cannot be written stays in memory, and other tables come and go beside it.
void ReadsWhenFull() {
  const Folder folder;
  const std::string path = MadeImage(folder, "image", "", "2M");
  const SeenFile file(path, true);
  vmm::qcow2::TableCache cache(file, 512, 2, [] { return -ENOSPC; });
  std::byte* table = nullptr;
  CHECK(cache.Load(0, &table) == 0 && table[0] == std::byte{'Q'});
  table[0] = std::byte{'q'};
  cache.Touch(0, 0);
  for (uint64_t offset = 512; offset < 4096; offset += 512) CHECK(cache.Load(offset, &table) == 0);
  CHECK(cache.Load(0, &table) == 0 && table[0] == std::byte{'q'});
}

/// Every change fails once, as when the file system is full for a while: the request fails, what
/// was written before stays, and afterwards all goes on.
void Full() {
  const Folder folder;
  const std::string empty =
      MadeImage(folder, "empty", "-o cluster_size=512,refcount_bits=64", "1M");
  const std::string path = folder / "image";
  int failed = 0;
  for (int failing = 0; failing < 60; ++failing) {
    Shell("cp " + empty + " " + path);
    {
      int change = -1;  // counted from when it is open
      Model model(kMiB);
      std::mt19937_64 random(8);
      const Disk disk(path, false, [&](auto, uint64_t, uint64_t, const std::byte*) {
        const int at = change < 0 ? -1 : change++ / 4;
        return at == failing || at == failing + 9 ? -ENOSPC : 0;
      });
      change = 0;
      for (int i = 0; i < 40; ++i) {
        const int rc = DoSomething(disk, &model, &random);
        CHECK(rc == 0 || rc == -ENOSPC);
        if (rc == 0) continue;
        ++failed;
        model.Learn(disk.ReadAll());
      }
      change = -1;
      CHECK(model.IsNow(disk.ReadAll()) && disk.Flush() == 0);
    }
    CHECK(IsSound(path));
  }
  CHECK(failed > 60);
}

}  // namespace

int main() {
  Test("after random requests QEMU finds the image clean and equal", RandomRequests);
  Test("what a backing file has stays around what is written", RandomOverBacking);
  Test("compressed clusters are replaced one by one", OverCompressed);
  Test("a snapshot keeps what it had", Snapshots);
  Test("the refcount table grows with the file", TableGrows);
  Test("what is discarded is used again and takes no room", Reuse);
  Test("a closed image is no larger than what it holds", Tight);
  Test("writes that make the same cluster, and discards under writes, are busy", Busy);
  Test("the clusters of a failed write are given back", FailedWrite);
  Test("the queues of a disk share an image", Threads);
  Test("tables are read while none can be written", ReadsWhenFull);
  Test("a full file system fails requests and nothing else", Full);
}
