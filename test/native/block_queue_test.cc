#include "../../native/engines/block_queue.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "../../native/engines/aio.h"
#include "../../native/engines/block.h"
#include "../../native/engines/buffered_io.h"
#include "../../native/engines/io_uring.h"
#include "../../native/engines/sync_io.h"
#include "block_guest.h"
#include "flag.h"
#include "temporary_file.h"

namespace {

using vmm::FileIo;
using vmm::IoKind;

constexpr uint64_t kData = BlockGuest::kDataGpa;
constexpr uint64_t kDiskBytes = 4 << 20;

/// Holds everything back until the test lets it go.
class HeldIo final : public vmm::FileIo {
 public:
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<uint32_t> held;
    std::vector<Done> released;
    bool waiting = false;  // the thread has taken all there was
  };
  HeldIo(std::shared_ptr<Shared> shared, std::shared_ptr<vmm::EventFd> kick)
      : shared_(std::move(shared)), kick_(std::move(kick)) {}

  void Submit(const vmm::FileOp& op, uint32_t tag) override {
    const std::lock_guard lock(shared_->mutex);
    for (uint32_t i = 0; op.kind == vmm::FileOp::Kind::kRead && i < op.iov_count; ++i)
      std::memset(op.iov[i].iov_base, 0x77, op.iov[i].iov_len);
    lengths_[tag] = static_cast<int64_t>(op.length);
    shared_->held.push_back(tag);
    shared_->changed.notify_all();
  }
  void Run(vmm::Until until, std::vector<Done>* done) override {
    SetWaiting(until != vmm::kNoSleep);
    SleepUntil(*kick_, until);
    SetWaiting(false);
    const std::lock_guard lock(shared_->mutex);
    for (const Done& one : std::exchange(shared_->released, {}))
      done->push_back({one.tag, lengths_[one.tag]});
  }

 private:
  void SetWaiting(bool waiting) {
    const std::lock_guard lock(shared_->mutex);
    shared_->waiting = waiting;
    shared_->changed.notify_all();
  }

  const std::shared_ptr<Shared> shared_;
  const std::shared_ptr<vmm::EventFd> kick_;
  std::map<uint32_t, int64_t> lengths_;
};

/// One queue over HeldIo.
class HeldDisk {
 public:
  explicit HeldDisk(uint64_t size_bytes = kDiskBytes) : HeldDisk(RawDisk(-1, size_bytes)) {}
  explicit HeldDisk(const std::shared_ptr<vmm::DiskImage>& image,
                    std::shared_ptr<vmm::RateLimiter> limiter = nullptr) {
    auto disk = std::make_shared<vmm::BlockDisk>();
    disk->image = image;
    disk->limiter = std::move(limiter);
    disk->limits = {image->size_bytes(), false, true};
    auto work = std::make_unique<vmm::BlockQueue>(guest.queue(), disk, [this](uint16_t) {
      return std::make_unique<HeldIo>(shared_, guest.queue().kick);
    });
    thread_ = std::make_unique<vmm::EngineThread>("held", std::vector<uint32_t>{}, std::move(work));
  }
  uint16_t Read(uint64_t place) {
    const uint16_t head = guest.Request(VIRTIO_BLK_T_IN, 0, {{kData + place * 512, 512, true}},
                                        BlockGuest::kHeaderGpa + place * 32);
    guest.Kick();
    return head;
  }
  /// Until the thread waits with so many in flight.
  void AwaitHeld(size_t count) {
    std::unique_lock lock(shared_->mutex);
    CHECK(shared_->changed.wait_for(lock, std::chrono::seconds(10), [&] {
      return shared_->waiting && shared_->held.size() == count;
    }));
  }
  bool HoldsAny() const {
    const std::lock_guard lock(shared_->mutex);
    return !shared_->held.empty();
  }
  /// The one that came last goes first.
  void ReleaseLast() {
    {
      const std::lock_guard lock(shared_->mutex);
      shared_->released.push_back({shared_->held.back(), 0});
      shared_->held.pop_back();
    }
    guest.kick().Signal();
  }
  vmm::EngineThread& thread() { return *thread_; }

  BlockGuest guest;

 private:
  const std::shared_ptr<HeldIo::Shared> shared_ = std::make_shared<HeldIo::Shared>();
  std::unique_ptr<vmm::EngineThread> thread_;
};

void OutOfOrder() {
  HeldDisk disk;
  const uint16_t first = disk.Read(0), second = disk.Read(1);
  disk.AwaitHeld(2);

  disk.ReleaseLast();
  CHECK(disk.guest.Await()[0].head == second);
  disk.ReleaseLast();
  CHECK(disk.guest.Await()[0].head == first);
}

void SameHeadTwice() {
  HeldDisk disk;
  const uint16_t head = disk.Read(0);
  disk.AwaitHeld(1);
  disk.guest.driver().Offer(head);
  disk.guest.kick().Signal();
  for (int i = 0; i < 10'000 && disk.guest.fault() == nullptr; ++i) usleep(1000);
  CHECK(disk.guest.fault() != nullptr);
  CHECK(std::string(disk.guest.fault()) == "head that is in flight already");

  Flag ended;
  disk.thread().Stop(ended.Setter());
  CHECK(!ended.Await(50));  // the buffer is still being read into
  disk.ReleaseLast();
  CHECK(ended.Await());
  CHECK(disk.guest.Await(0).empty());
}

void PauseInFlight() {
  HeldDisk disk;
  disk.Read(0);
  disk.AwaitHeld(1);
  Flag paused;
  disk.thread().Pause(paused.Setter());
  disk.Read(1);
  disk.guest.kick().Signal();
  CHECK(!paused.Await(50));
  disk.AwaitHeld(1);  // the second is not taken
  disk.ReleaseLast();
  CHECK(paused.Await() && disk.guest.Await().size() == 1);

  disk.thread().Resume();
  disk.AwaitHeld(1);
  disk.ReleaseLast();
  CHECK(disk.guest.Await().size() == 1);
}

void ResumeBeforePaused() {
  HeldDisk disk;
  disk.Read(0);
  disk.AwaitHeld(1);
  Flag paused;
  disk.thread().Pause(paused.Setter());
  disk.thread().Resume();
  CHECK(paused.Await());
  disk.ReleaseLast();
  CHECK(disk.guest.Await().size() == 1);
  disk.Read(1);
  disk.AwaitHeld(1);
  disk.ReleaseLast();
  CHECK(disk.guest.Await().size() == 1);
}

/// Every one is of 64 MiB, which RAM is not.
void LargeRequests() {
  constexpr uint32_t kSectors = (64 << 20) / 512;
  HeldDisk disk(uint64_t{1} << 40);
  for (uint64_t place = 0; place < 3; ++place) {
    const uint64_t header_gpa = BlockGuest::kHeaderGpa + place * 32;
    const uint64_t segment_gpa = kData + place * sizeof(virtio_blk_discard_write_zeroes);
    const virtio_blk_discard_write_zeroes segment{place * kSectors, kSectors, 0};
    std::memcpy(disk.guest.At(segment_gpa), &segment, sizeof(segment));
    disk.guest.Request(VIRTIO_BLK_T_WRITE_ZEROES, 0, {{segment_gpa, sizeof(segment)}}, header_gpa);
  }
  disk.guest.Kick();
  for (int i = 0; i < 3; ++i) {
    disk.AwaitHeld(1);
    disk.ReleaseLast();
    CHECK(disk.guest.Await().size() == 1);
  }
}

/// So large because its descriptors overlap.
constexpr uint64_t kPieces = 3, kPieceBytes = 4 << 20;
void ReadInPieces(HeldDisk* disk) {
  const Buffer much{kData, static_cast<uint32_t>(kPieceBytes / 8), true};
  disk->guest.Request(VIRTIO_BLK_T_IN, 0, std::vector<Buffer>(8 * kPieces, much));
  disk->guest.Kick();
  disk->AwaitHeld(1);
}

void PauseBetweenPieces() {
  HeldDisk disk(uint64_t{1} << 40);
  ReadInPieces(&disk);
  Flag paused;
  disk.thread().Pause(paused.Setter());
  disk.ReleaseLast();
  CHECK(paused.Await() && disk.guest.Await(0).empty());

  disk.thread().Resume();
  for (uint64_t i = 1; i < kPieces; ++i) {
    disk.AwaitHeld(1);
    disk.ReleaseLast();
  }
  CHECK(disk.guest.Await()[0].written == kPieces * kPieceBytes + 1);
  CHECK(disk.guest.Status() == VIRTIO_BLK_S_OK);
}

void StopBetweenPieces() {
  HeldDisk disk(uint64_t{1} << 40);
  ReadInPieces(&disk);
  Flag ended;
  disk.thread().Stop(ended.Setter());
  disk.ReleaseLast();
  CHECK(ended.Await() && disk.guest.Await(0).empty());
}

/// One request passes at once, and the next when it is told to.
HeldDisk Limited(uint64_t period_ms) {
  return HeldDisk(RawDisk(-1, kDiskBytes),
                  std::make_shared<vmm::RateLimiter>(vmm::TokenBucketOptions{},
                                                     vmm::TokenBucketOptions{1, period_ms, 0}));
}

void WaitsForItsTurn() {
  HeldDisk disk = Limited(600);
  disk.Read(0);
  disk.AwaitHeld(1);
  disk.ReleaseLast();
  CHECK(disk.guest.Await().size() == 1);

  disk.Read(1);
  usleep(50'000);
  CHECK(!disk.HoldsAny());
  disk.AwaitHeld(1);
  disk.ReleaseLast();
  CHECK(disk.guest.Await().size() == 1);
}

void PauseBeforeItsTurn() {
  HeldDisk disk = Limited(600);
  disk.Read(0);
  disk.Read(1);
  disk.Read(2);
  disk.AwaitHeld(1);
  disk.ReleaseLast();
  CHECK(disk.guest.Await().size() == 1);
  for (int i = 0; i < 1000; ++i) {
    Flag paused;
    disk.thread().Pause(paused.Setter());
    CHECK(paused.Await());
    CHECK(disk.guest.queue().queue->in_flight_count() == 0);
    disk.thread().Resume();
  }
  for (int i = 0; i < 2; ++i) {
    disk.AwaitHeld(1);
    disk.ReleaseLast();
    CHECK(disk.guest.Await().size() == 1);
  }
}

void StopBeforeItsTurn() {
  HeldDisk disk = Limited(uint64_t{1} << 53);
  disk.Read(0);
  disk.Read(1);
  disk.AwaitHeld(1);
  disk.ReleaseLast();
  CHECK(disk.guest.Await().size() == 1);
  Flag ended;
  disk.thread().Stop(ended.Setter());
  CHECK(ended.Await() && disk.guest.Await(0).empty());
}

/// Has room for one write at a time, and says so.
class OneWriteImage : public vmm::Image {
 public:
  uint64_t size_bytes() const override { return kDiskBytes; }
  int Read(vmm::DiskRange, vmm::Extent*) override { return -EIO; }
  int BeginWrite(vmm::DiskRange range, vmm::WritePlan* out) override {
    if (writing_.exchange(true)) return ++busy, -EBUSY;
    *out = {range.offset, range.length, {}, {}, 0};
    return 0;
  }
  int EndWrite(uint64_t, bool) override { return writing_.store(false), 0; }
  int Discard(vmm::DiskRange) override { return -EOPNOTSUPP; }
  int Zero(vmm::DiskRange, bool, uint64_t*, uint64_t*) override { return -EOPNOTSUPP; }
  int Flush() override { return 0; }

  std::atomic<uint32_t> busy = 0;

 private:
  std::atomic<bool> writing_ = false;
};

uint16_t Write(HeldDisk* disk, uint64_t place) {
  const uint16_t head =
      disk->guest.Request(VIRTIO_BLK_T_OUT, 0, {{kData, 512}}, BlockGuest::kHeaderGpa + place * 32);
  disk->guest.Kick();
  return head;
}

/// Each write takes much more with it.
class WideImage final : public OneWriteImage {
  int BeginWrite(vmm::DiskRange range, vmm::WritePlan* out) override {
    *out = {range.offset, range.length, std::vector<std::byte>(40 << 20), {}, 0};
    return 0;
  }
};

void WideWrites() {
  HeldDisk disk(std::make_shared<vmm::DiskImage>(std::vector<vmm::File>{{-1}}, kDiskBytes,
                                                 std::make_unique<WideImage>()));
  for (uint64_t place = 0; place < 3; ++place) Write(&disk, place);
  disk.AwaitHeld(2);
  disk.ReleaseLast();
  disk.AwaitHeld(2);
  disk.ReleaseLast();
  disk.ReleaseLast();
  for (size_t done = 0; done < 3;) done += disk.guest.Await().size();
}

/// Of two writes by one queue and one by another.
void WritesInTurn() {
  auto* image = new OneWriteImage;
  const auto disk_image = std::make_shared<vmm::DiskImage>(std::vector<vmm::File>{{-1}}, kDiskBytes,
                                                           std::unique_ptr<vmm::Image>(image));
  HeldDisk first(disk_image), second(disk_image);
  Write(&first, 0);
  first.AwaitHeld(1);
  Write(&first, 1);
  Write(&second, 0);
  first.AwaitHeld(1);
  second.AwaitHeld(0);
  for (int i = 0; i < 10'000 && image->busy < 4; ++i) usleep(1000);

  first.ReleaseLast();

  CHECK(first.guest.Await().size() == 1);
  // Whichever comes first.
  size_t done = 0;
  for (int i = 0; i < 10'000 && done < 2; ++i) {
    for (HeldDisk* disk : {&first, &second})
      if (disk->HoldsAny()) disk->ReleaseLast(), done += disk->guest.Await().size();
    usleep(1000);
  }
  CHECK(done == 2);
}

void PauseOfWaiting() {
  const auto disk_image = std::make_shared<vmm::DiskImage>(std::vector<vmm::File>{{-1}}, kDiskBytes,
                                                           std::make_unique<OneWriteImage>());
  HeldDisk first(disk_image), second(disk_image);
  Write(&first, 0);
  first.AwaitHeld(1);
  Write(&second, 0);
  Flag paused;
  second.thread().Pause(paused.Setter());
  CHECK(paused.Await());
  first.ReleaseLast();
  CHECK(first.guest.Await().size() == 1);

  second.thread().Resume();
  second.AwaitHeld(1);
  second.ReleaseLast();
  CHECK(second.guest.Await().size() == 1);
}

/// Counts how often the thread goes to the kernel for I/O: Run of io_uring is one system call.
class CountingIo final : public vmm::FileIo {
 public:
  CountingIo(std::unique_ptr<FileIo> inner, std::atomic<uint32_t>* runs)
      : inner_(std::move(inner)), runs_(runs) {}
  void Submit(const vmm::FileOp& op, uint32_t tag) override { inner_->Submit(op, tag); }
  void Run(vmm::Until until, std::vector<Done>* done) override {
    ++*runs_;
    inner_->Run(until, done);
  }

 private:
  const std::unique_ptr<FileIo> inner_;
  std::atomic<uint32_t>* const runs_;
};

void FewSystemCalls() {
  constexpr size_t kRequests = 6400, kDepth = 64;
  const vmm::Fd file = TemporaryFile(kDiskBytes);
  BlockGuest guest(256);
  std::atomic<uint32_t> runs = 0;
  auto disk = std::make_shared<vmm::BlockDisk>();
  disk->image = RawDisk(file.get(), kDiskBytes);
  disk->limits = {kDiskBytes, false, true};
  auto work = std::make_unique<vmm::BlockQueue>(guest.queue(), disk, [&](uint16_t depth) {
    return std::make_unique<CountingIo>(
        OpenFileIo(IoKind::kIoUring, disk->image->files(), *guest.queue().kick, depth), &runs);
  });
  const vmm::EngineThread thread("counted", {}, std::move(work));

  for (size_t done = 0; done < kRequests; done += kDepth) {
    for (size_t place = 0; place < kDepth; ++place)
      guest.Request(VIRTIO_BLK_T_IN, place * 8, {{kData + place * 4096, 4096, true}},
                    BlockGuest::kHeaderGpa + place * 32);
    CHECK(guest.Finish().size() == kDepth);
  }

  const uint32_t system_calls = runs + guest.interrupts;
  CHECK(system_calls * 1000 <= 100 * kRequests);
  CHECK(guest.interrupts * 1000 <= 250 * kRequests && guest.kicks * 1000 <= 100 * kRequests);
}

/// From now on the calling thread's system call of that number fails with `error`.
void Forbid(uint32_t number, uint32_t error) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),  // seccomp_data.nr
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{4, program};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

void NextBest() {
  std::thread([] {
    const vmm::Fd file = TemporaryFile(kDiskBytes);
    const vmm::EventFd kick;
    const auto open = [&](IoKind first) { return OpenFileIo(first, {{file.get()}}, kick, 8); };
    CHECK(dynamic_cast<vmm::BufferedIo*>(open(IoKind::kIoUring).get()) != nullptr);
    Forbid(SYS_io_uring_setup, EPERM);
    CHECK(dynamic_cast<vmm::Aio*>(open(IoKind::kIoUring).get()) != nullptr);
    Forbid(SYS_io_setup, ENOSYS);
    CHECK(dynamic_cast<vmm::SyncIo*>(open(IoKind::kIoUring).get()) != nullptr);
    CHECK(dynamic_cast<vmm::SyncIo*>(open(IoKind::kAio).get()) != nullptr);
  }).join();
}

void NoThreadLeft() {
  std::thread([] {
    const vmm::Fd file = TemporaryFile(kDiskBytes);
    BlockGuest guest;
    vmm::BlockOptions options;
    options.image = RawDisk(file.get(), kDiskBytes);
    vmm::BlockEngine engine(options);
    Forbid(SYS_clone3, EAGAIN);
    Forbid(SYS_clone, EAGAIN);

    CHECK(engine.Start({guest.queue()}) == -EAGAIN);

    Flag stopped;
    engine.Stop(stopped.Setter());
    CHECK(stopped.Await());
  }).join();
}

}  // namespace

int main() {
  Test("requests are given back in the order they are done", OutOfOrder);
  Test("a head offered twice breaks the queue, and the first stays until it is done",
       SameHeadTwice);
  Test("a pause waits for what is in flight and takes nothing until the resume", PauseInFlight);
  Test("a resume that overtakes its pause settles it", ResumeBeforePaused);
  Test("a pause waits for a piece of a large request, and the rest follows the resume",
       PauseBetweenPieces);
  Test("a stop waits for a piece, and drops the rest", StopBetweenPieces);
  Test("what has to wait for another write goes on after it, on whatever queue", WritesInTurn);
  Test("who waits for another write can be paused, and goes on when resumed", PauseOfWaiting);
  Test("of requests too large to wait for only one is in flight, and the rest follows",
       LargeRequests);
  Test("small writes that an image makes large are limited by what it makes of them", WideWrites);
  Test("what a limit holds back goes on by itself", WaitsForItsTurn);
  Test("a pause gives back what a limit holds back, and its charge", PauseBeforeItsTurn);
  Test("a stop does not wait for what a limit holds back", StopBeforeItsTurn);
  Test("a thousand requests take a hundred system calls and interrupts at most", FewSystemCalls);
  Test("what the host forbids gives way to the next best", NextBest);
  Test("a host without a thread left is told of, and the engine stops", NoThreadLeft);
}
