/// Taking compressed clusters apart is in nobody's way, and right whatever others do meanwhile.

#include <atomic>
#include <thread>

#include "../../native/disk/disk_image.h"
#include "../../native/disk/inflate.h"
#include "../../native/disk/qcow2_image.h"
#include "flag.h"
#include "qcow2_support.h"

namespace {

using vmm::Extent;
using vmm::WritePlan;

constexpr uint64_t kCluster = 64 << 10;
constexpr uint64_t kClusters = 32;
constexpr uint64_t kDiskBytes = kClusters * kCluster;

/// Calls what the test wants before it takes a cluster apart; false of it: the data are damaged.
class Watched final : public vmm::Decompressor {
 public:
  using Before = std::function<bool()>;
  explicit Watched(Before before) : before_(std::move(before)) {}
  bool Decompress(std::span<const std::byte> from, std::span<std::byte> into) const override {
    return before_() && inflate_->Decompress(from, into);
  }

 private:
  const Before before_;
  const std::unique_ptr<vmm::Decompressor> inflate_ = vmm::MakeInflate();
};

/// Of `kDiskBytes`, all of it compressed.
std::string MadeCompressed(const Folder& folder) {
  const std::string raw = folder / "source";
  const std::string path = folder / "image";
  Shell("seq 1 400000 | head -c " + std::to_string(kDiskBytes) + " > " + raw);
  Shell("qemu-img convert -c -f raw -O qcow2 " + raw + " " + path);
  return path;
}

std::unique_ptr<vmm::qcow2::Qcow2Image> Opened(const std::string& path, Watched::Before before,
                                               vmm::Qcow2Backing backing = {}) {
  vmm::qcow2::Store store;
  store.file = std::make_unique<SeenFile>(path, false);
  CHECK(store.file->Size(&store.file_bytes) == 0);
  std::vector<std::byte> bytes(std::min<uint64_t>(store.file_bytes, vmm::kQcow2HeaderBytes));
  CHECK(store.file->Read(0, bytes) == 0);
  CHECK(ParseQcow2Header(bytes, store.file_bytes, false, &store.header).empty());
  store.file_bytes = (store.file_bytes + kCluster - 1) / kCluster * kCluster;
  CHECK(store.file->Resize(store.file_bytes) == 0);
  auto image = std::make_unique<vmm::qcow2::Qcow2Image>(
      std::move(store), std::move(backing), std::make_unique<Watched>(std::move(before)), false);
  CHECK(image->Open() == 0);
  return image;
}

void WriteCluster(vmm::Image* image, uint64_t cluster) {
  WritePlan plan;
  CHECK(image->BeginWrite({cluster * kCluster, kCluster}, &plan) == 0);
  CHECK(image->EndWrite(plan.ticket, true) == 0);
}

/// One thread is in the middle of a cluster while another uses the rest of the image.
void CheckOthers(vmm::Image* image, Flag* entered, Flag* done, std::function<void()> slow) {
  std::thread queue(std::move(slow));
  CHECK(entered->Await());
  Extent extent;
  CHECK(image->Read({kDiskBytes - kCluster, 512}, &extent) == 0);
  WriteCluster(image, kClusters - 2);
  CHECK(image->Flush() == 0);
  done->Setter()();
  queue.join();
}

/// The first cluster is taken apart until `done`; false if nobody says so.
Watched::Before UntilDone(Flag* entered, Flag* done, std::atomic<bool>* first) {
  return [=] {
    if (!first->exchange(false)) return true;
    entered->Setter()();
    return done->Await(5'000);
  };
}

void NobodyWaits() {
  for (const bool writes : {false, true}) {
    const Folder folder;
    Flag entered, done;
    std::atomic<bool> first = true;
    const auto image = Opened(MadeCompressed(folder), UntilDone(&entered, &done, &first));
    CheckOthers(image.get(), &entered, &done, [&] {
      Extent extent;
      WritePlan plan;
      if (!writes) CHECK(image->Read({512, 512}, &extent) == 0);
      if (!writes) return;
      CHECK(image->BeginWrite({512, 512}, &plan) == 0);
      CHECK(plan.before.size() == 512 && image->EndWrite(plan.ticket, true) == 0);
    });
  }
}

void NobodyWaitsForBacking() {
  const Folder folder;
  const std::string base = MadeCompressed(folder);
  const std::string top = folder / "top";
  Shell("qemu-img create -f qcow2 -F qcow2 -b " + base + " " + top);
  Flag entered, done;
  std::atomic<bool> first = true;
  auto below = Opened(base, UntilDone(&entered, &done, &first));
  const auto image = Opened(top, [] { return true; }, {std::move(below), {{}}});
  CheckOthers(image.get(), &entered, &done, [&] {
    Extent extent;
    CHECK(image->Read({512, 512}, &extent) == 0 && extent.kind == Extent::Kind::kBytes);
  });
}

/// The guest writes the cluster while it reads it, and the place of it goes to others.
void ReadWhileWritten() {
  const Folder folder;
  vmm::Image* image = nullptr;
  const auto opened = Opened(MadeCompressed(folder), [&image] {
    WriteCluster(image, 3);
    CHECK(image->Flush() == 0);
    return false;
  });
  image = opened.get();
  Extent extent;
  CHECK(image->Read({3 * kCluster + 512, 512}, &extent) == 0);
  CHECK(extent.kind == Extent::Kind::kFile && extent.offset % kCluster == 512);
}

/// Who met a write that then failed to begin is not left waiting for it.
void FailsToBegin() {
  const Folder folder;
  const std::string path = MadeCompressed(folder);
  vmm::Image* image = nullptr;
  std::unique_ptr<vmm::DiskImage> disk;
  const auto kick = std::make_shared<vmm::EventFd>();
  WritePlan plan;
  auto opened = Opened(path, [&] {
    disk->AwaitWrite(kick);
    WritePlan other;
    CHECK(disk->BeginWrite({0, kCluster}, &other) == -EBUSY && !kick->Take());
    return false;
  });
  image = opened.get();
  disk =
      std::make_unique<vmm::DiskImage>(std::vector<vmm::File>{{}}, kDiskBytes, std::move(opened));
  CHECK(disk->BeginWrite({512, 512}, &plan) == -EIO && kick->Take());
  WriteCluster(image, 0);
  CHECK(disk->Close() == 0 && IsClean(path));
}

/// Each queue has every fourth sector, so that all of them meet in each cluster.
void ManyQueues() {
  constexpr uint64_t kQueues = 4;
  const Folder folder;
  const std::string path = MadeCompressed(folder);
  std::vector<std::byte> expected = Disk(path, true).ReadAll();
  {
    const Disk disk(path);
    const auto work = [&](uint64_t queue) {
      std::mt19937_64 random(queue);
      std::vector<std::byte> bytes(512);
      for (int i = 0; i < 600; ++i) {
        const uint64_t at = (Draw(&random, kDiskBytes / 512 / kQueues) * kQueues + queue) * 512;
        CHECK(disk.Read(at, bytes) == 0);
        CHECK(std::equal(bytes.begin(), bytes.end(), &expected[at]));
        if (i % 4 != 0) continue;
        std::fill_n(&expected[at], 512, static_cast<std::byte>(queue + 1));
        int rc = -EBUSY;
        while (rc == -EBUSY) rc = disk.Fill(at, 512, static_cast<uint8_t>(queue + 1));
        CHECK(rc == 0 && (i % 16 > 0 || disk.Flush() == 0));
      }
    };
    std::vector<std::thread> queues;
    for (uint64_t queue = 0; queue < kQueues; ++queue) queues.emplace_back(work, queue);
    for (std::thread& queue : queues) queue.join();
    CHECK(disk.ReadAll() == expected);
  }
  CHECK(IsClean(path) && Disk(path, true).ReadAll() == expected);
}

}  // namespace

int main() {
  Test("nobody waits while a cluster is taken apart", NobodyWaits);
  Test("nobody waits while one of a backing file is taken apart", NobodyWaitsForBacking);
  Test("a cluster that is written meanwhile is read as it is then", ReadWhileWritten);
  Test("a write that fails to begin is in nobody's way", FailsToBegin);
  Test("four queues read and write compressed clusters", ManyQueues);
}
