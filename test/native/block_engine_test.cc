#include <fcntl.h>

#include <mutex>
#include <thread>

#include "../../native/engines/block.h"
#include "block_guest.h"
#include "flag.h"
#include "temporary_file.h"

namespace {

using vmm::BlockEngine;
using vmm::BlockOptions;
using vmm::IoKind;
using vmm::RateLimiter;
using vmm::TokenBucketOptions;

constexpr uint64_t kData = BlockGuest::kDataGpa;
constexpr uint64_t kDiskBytes = 4 << 20;
constexpr uint8_t kOk = VIRTIO_BLK_S_OK, kIoErr = VIRTIO_BLK_S_IOERR;

/// A disk of two queues, of which the driver has set up the second.
class Disk {
 public:
  explicit Disk(IoKind io, const std::function<void(BlockOptions*)>& change = {},
                bool event_idx = true)
      : guest(64, event_idx) {
    BlockOptions options;
    options.id = "_disk0";
    options.image = RawDisk(file_.get(), kDiskBytes);
    options.discard = true;
    options.serial = "a serial of 20 bytes";
    options.io = io;
    options.on_error = [this](const std::string& message) {
      const std::lock_guard lock(mutex_);
      errors_.push_back(message);
    };
    if (change) change(&options);
    engine_ = std::make_unique<BlockEngine>(options);
    engine_->Start({std::nullopt, guest.queue()});
  }
  ~Disk() { Stop(); }

  void Stop() {
    Flag ended;
    engine_->Stop(ended.Setter());
    CHECK(ended.Await());
    engine_->Join();
  }
  BlockEngine& engine() { return *engine_; }
  int fd() const { return file_.get(); }
  std::vector<std::string> errors() {
    const std::lock_guard lock(mutex_);
    return errors_;
  }
  /// Whether the image is of such bytes there.
  bool Holds(uint64_t offset, uint8_t value, size_t count) const {
    std::vector<uint8_t> bytes(count);
    CHECK(pread(file_.get(), bytes.data(), count, static_cast<off_t>(offset)) ==
          static_cast<ssize_t>(count));
    return std::all_of(bytes.begin(), bytes.end(), [value](uint8_t b) { return b == value; });
  }
  void Fill(uint64_t offset, uint8_t value, size_t count) const {
    const std::vector<uint8_t> bytes(count, value);
    CHECK(pwrite(file_.get(), bytes.data(), count, static_cast<off_t>(offset)) ==
          static_cast<ssize_t>(count));
  }

  BlockGuest guest;

 private:
  const vmm::Fd file_ = TemporaryFile(kDiskBytes);
  std::mutex mutex_;
  std::vector<std::string> errors_;
  std::unique_ptr<BlockEngine> engine_;
};

void WritesAndReads(IoKind io) {
  Disk disk(io);
  BlockGuest& guest = disk.guest;
  guest.Fill(kData, 0x5a, 3072);

  CHECK(guest.Do(VIRTIO_BLK_T_OUT, 3, {{kData, 1000}, {kData + 1000, 2072}}) == kOk);
  CHECK(guest.written == 1);
  CHECK(disk.Holds(3 * 512, 0x5a, 3072));
  CHECK(disk.Holds(2 * 512, 0, 512) && disk.Holds(9 * 512, 0, 512));

  CHECK(guest.Do(VIRTIO_BLK_T_FLUSH, 0, {}) == kOk);
  CHECK(guest.Do(VIRTIO_BLK_T_IN, 3, {{kData + 8192, 1, true}, {kData + 9000, 3071, true}}) == kOk);
  CHECK(guest.written == 3073);
  CHECK(guest.Holds(kData + 8192, 0x5a, 1) && guest.Holds(kData + 9000, 0x5a, 3071));
}

void AnswersAtOnce(IoKind io) {
  Disk disk(io);
  BlockGuest& guest = disk.guest;

  CHECK(guest.Do(VIRTIO_BLK_T_GET_ID, 0, {{kData, 20, true}}) == kOk && guest.written == 21);
  CHECK(std::memcmp(guest.At(kData), "a serial of 20 bytes", 20) == 0);
  CHECK(guest.Do(VIRTIO_BLK_T_IN, 0, {}) == kOk && guest.written == 1);
  CHECK(guest.Do(VIRTIO_BLK_T_IN, 1 << 20, {{kData, 512, true}}) == kIoErr && guest.written == 0);
  CHECK(guest.Do(VIRTIO_BLK_T_OUT, 1 << 20, {{kData, 512}}) == kIoErr && guest.written == 1);
  guest.Offer({{BlockGuest::kHeaderGpa, 16}});
  CHECK(guest.Finish()[0].written == 0);
  CHECK(disk.errors().empty());
}

void DiscardsAndZeroes(IoKind io) {
  Disk disk(io);
  BlockGuest& guest = disk.guest;
  const auto range = [&](uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags) {
    const virtio_blk_discard_write_zeroes segment{sector, sectors, flags};
    std::memcpy(guest.At(kData), &segment, sizeof(segment));
    return guest.Do(type, 0, {{kData, sizeof(segment)}});
  };
  disk.Fill(0, 0xff, 1 << 20);

  CHECK(range(VIRTIO_BLK_T_DISCARD, 8, 8, 0) == kOk);
  CHECK(range(VIRTIO_BLK_T_WRITE_ZEROES, 24, 16, 0) == kOk);
  CHECK(range(VIRTIO_BLK_T_WRITE_ZEROES, 1001, 3, 1) == kOk);

  CHECK(disk.Holds(0, 0xff, 4096) && disk.Holds(4096, 0, 4096) && disk.Holds(8192, 0xff, 4096));
  CHECK(disk.Holds(24 * 512, 0, 8192) && disk.Holds(40 * 512, 0xff, 512));
  CHECK(disk.Holds(1001 * 512, 0, 3 * 512) && disk.Holds(1004 * 512, 0xff, 512));
}

void Durable(IoKind io) {
  Disk disk(io, [](BlockOptions* options) { options->writeback = false; });
  disk.guest.Fill(kData, 1, 512);
  CHECK(disk.guest.Do(VIRTIO_BLK_T_OUT, 0, {{kData, 512}}) == kOk && disk.Holds(0, 1, 512));
  disk.engine().SetWriteback(true);
  CHECK(disk.guest.Do(VIRTIO_BLK_T_OUT, 1, {{kData, 512}}) == kOk && disk.Holds(512, 1, 512));
}

void Truncated(IoKind io) {
  Disk disk(io);
  CHECK(ftruncate(disk.fd(), 512) == 0);
  CHECK(disk.guest.Do(VIRTIO_BLK_T_IN, 0, {{kData, 1024, true}}) == kIoErr);
  CHECK(disk.guest.written == 0);
  CHECK(disk.guest.Do(VIRTIO_BLK_T_IN, 1, {{kData, 512, true}}) == kIoErr);
  CHECK(disk.guest.Do(VIRTIO_BLK_T_IN, 0, {{kData, 512, true}}) == kOk);
  CHECK(disk.errors() ==
        std::vector<std::string>{
            "Cannot read 512 bytes at offset 512 of the image: No data available"});
}

void HostErrors(IoKind io) {
  const vmm::Fd full(open("/dev/full", O_RDWR | O_CLOEXEC));
  Disk no_room(io,
               [&](BlockOptions* options) { options->image = RawDisk(full.get(), kDiskBytes); });
  CHECK(no_room.guest.Do(VIRTIO_BLK_T_OUT, 0, {{kData, 512}}) == kIoErr);
  CHECK(no_room.errors().size() == 1);

  const vmm::Fd read_only(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  Disk locked(
      io, [&](BlockOptions* options) { options->image = RawDisk(read_only.get(), kDiskBytes); });
  CHECK(locked.guest.Do(VIRTIO_BLK_T_OUT, 0, {{kData, 512}}) == kIoErr);
  CHECK(locked.guest.Do(VIRTIO_BLK_T_IN, 0, {{kData, 512, true}}) == kOk);
}

/// In whatever order they are done: each has the bytes of its own sectors.
void ManyAtATime(IoKind io, bool event_idx) {
  constexpr size_t kRequests = 2000, kDepth = 16;
  Disk disk(io, {}, event_idx);
  for (uint64_t sector = 0; sector < kDiskBytes / 512; ++sector)
    disk.Fill(sector * 512, static_cast<uint8_t>(sector * 7), 512);
  BlockGuest& guest = disk.guest;
  std::map<uint32_t, std::pair<size_t, uint64_t>> flying;  // place and sector, by head
  std::vector<size_t> places;
  for (size_t place = 0; place < kDepth; ++place) places.push_back(place);
  size_t sent = 0, done = 0;
  while (done < kRequests) {
    for (; sent < kRequests && !places.empty(); ++sent) {
      const size_t place = places.back();
      const uint64_t sector = sent * 31 % (kDiskBytes / 512);
      places.pop_back();
      const uint16_t head =
          guest.Request(VIRTIO_BLK_T_IN, sector, {{kData + place * 512, 512, true}},
                        BlockGuest::kHeaderGpa + place * 32);
      flying[head] = {place, sector};
    }
    guest.Kick();
    const std::vector<Used> used = guest.Await();
    CHECK(!used.empty());
    for (const Used& one : used) {
      const auto [place, sector] = flying.extract(one.head).mapped();
      CHECK(guest.Holds(kData + place * 512, static_cast<uint8_t>(sector * 7), 512));
      places.push_back(place);
      ++done;
    }
  }
}

/// Unaligned buffers, offsets and lengths, as O_DIRECT would refuse them.
void Unaligned(IoKind io) {
  Disk disk(io, [](BlockOptions* options) {
    options->image = RawDisk(options->image->files()[0].fd, kDiskBytes, 4096);
  });
  BlockGuest& guest = disk.guest;
  disk.Fill(0, 0x11, 4 * 4096);
  guest.Fill(kData + 1, 0x22, 10 * 512);

  CHECK(guest.Do(VIRTIO_BLK_T_OUT, 7, {{kData + 1, 700}, {kData + 701, 10 * 512 - 700}}) == kOk);
  CHECK(disk.Holds(0, 0x11, 7 * 512) && disk.Holds(7 * 512, 0x22, 10 * 512));
  CHECK(disk.Holds(17 * 512, 0x11, 15 * 512));

  CHECK(guest.Do(VIRTIO_BLK_T_IN, 6, {{kData + 0x3001, 3, true}, {kData + 0x4003, 1021, true}}) ==
        kOk);
  CHECK(guest.Holds(kData + 0x3001, 0x11, 3) && guest.Holds(kData + 0x4003, 0x11, 509));
  CHECK(guest.Holds(kData + 0x4003 + 509, 0x22, 512));

  CHECK(ftruncate(disk.fd(), 512) == 0);
  CHECK(guest.Do(VIRTIO_BLK_T_IN, 0, {{kData + 1, 1024, true}}) == kIoErr);
}

/// Pauses, resumes and at last a stop at any moment, while requests come and go.
void Storm(IoKind io) {
  Disk disk(io);
  for (int round = 0; round < 200; ++round) {
    for (uint64_t place = 0; place < 8; ++place)
      disk.guest.Request(place % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, place,
                         {{kData + place * 512, 512, place % 2 == 0}},
                         BlockGuest::kHeaderGpa + place * 32);
    disk.guest.Kick();
    Flag paused;
    disk.engine().Pause(paused.Setter());
    if (round % 3 != 0) CHECK(paused.Await());
    disk.engine().Resume();
    CHECK(disk.guest.Finish().size() == 8);
    CHECK(paused.Await());
  }
  disk.guest.Request(VIRTIO_BLK_T_OUT, 0, {{kData, 4096}});
  disk.guest.Kick();
  disk.Stop();
}

constexpr TokenBucketOptions kNone{};

/// With what idleness has saved up already spent.
std::shared_ptr<RateLimiter> SpentLimiter(const TokenBucketOptions& bytes,
                                          const TokenBucketOptions& ops) {
  auto limiter = std::make_shared<RateLimiter>(bytes, ops);
  const int64_t now_ns = vmm::SteadyNowNs();
  while (limiter->Take(1024, now_ns) <= now_ns) continue;
  limiter->GiveBack(1024);
  return limiter;
}

/// Keeps a disk busy with reads of 1 KiB for a second, four at a time.
size_t ReadsInASecond(BlockGuest* guest) {
  constexpr uint64_t kPlaces = 4;
  const int64_t end_ns = vmm::SteadyNowNs() + 1'000'000'000;
  size_t done = 0;
  std::map<uint32_t, uint64_t> places;  // by head
  const auto read = [&](uint64_t place) {
    places[guest->Request(VIRTIO_BLK_T_IN, place, {{kData + place * 1024, 1024, true}},
                          BlockGuest::kHeaderGpa + place * 32)] = place;
  };
  for (uint64_t place = 0; place < kPlaces; ++place) read(place);
  guest->Kick();
  while (vmm::SteadyNowNs() < end_ns) {
    std::vector<uint64_t> free;
    for (const Used& one : guest->Await()) free.push_back(places.extract(one.head).mapped());
    for (const uint64_t place : free) read(place);
    done += free.size();
    guest->Kick();
  }
  guest->Finish();
  return done;
}

bool Within5Percent(size_t value, double target) {
  return static_cast<double>(value) >= 0.95 * target && static_cast<double>(value) <= 1.05 * target;
}

void KeepsToLimits(IoKind io) {
  for (const bool by_bytes : {false, true}) {
    const auto limiter =
        by_bytes ? SpentLimiter({400 << 10, 1000, 0}, kNone) : SpentLimiter(kNone, {400, 1000, 0});
    Disk disk(io, [&](BlockOptions* options) { options->limiter = limiter; });
    CHECK(Within5Percent(ReadsInASecond(&disk.guest), 400));
  }
}

/// A bucket of bytes has what is read and written, one of requests all that goes to the image.
void CountsAgainstLimits(IoKind io) {
  const TokenBucketOptions one_a_day{1, 86'400'000, 0};
  Disk bytes(io, [&](BlockOptions* options) {
    options->limiter = std::make_shared<RateLimiter>(one_a_day, kNone);
  });
  const virtio_blk_discard_write_zeroes all{0, kDiskBytes / 512, 0};
  std::memcpy(bytes.guest.At(kData), &all, sizeof(all));
  CHECK(bytes.guest.Do(VIRTIO_BLK_T_DISCARD, 0, {{kData, sizeof(all)}}) == kOk);
  CHECK(bytes.guest.Do(VIRTIO_BLK_T_IN, 0, {{kData, 512, true}}) == kOk);
  for (int i = 0; i < 10; ++i)
    CHECK(bytes.guest.Do(VIRTIO_BLK_T_GET_ID, 0, {{kData, 20, true}}) == kOk);
  bytes.guest.Request(VIRTIO_BLK_T_IN, 0, {{kData, 512, true}});
  bytes.guest.Kick();
  CHECK(bytes.guest.Await(100).empty());

  Disk ops(io, [&](BlockOptions* options) {
    options->limiter = std::make_shared<RateLimiter>(kNone, one_a_day);
  });
  CHECK(ops.guest.Do(VIRTIO_BLK_T_FLUSH, 0, {}) == kOk);
  ops.guest.Request(VIRTIO_BLK_T_IN, 0, {{kData, 512, true}});
  ops.guest.Kick();
  CHECK(ops.guest.Await(100).empty());
}

void SharesLimits(IoKind io) {
  const auto limiter = SpentLimiter(kNone, {400, 1000, 0});
  const auto limited = [&](BlockOptions* options) { options->limiter = limiter; };
  Disk first(io, limited), second(io, limited);
  size_t of_second = 0;
  std::thread other([&] { of_second = ReadsInASecond(&second.guest); });
  const size_t of_first = ReadsInASecond(&first.guest);
  other.join();
  CHECK(Within5Percent(of_first + of_second, 400));
  CHECK(of_first > 100 && of_second > 100);
}

void Counts(IoKind io) {
  const auto counters = std::make_shared<vmm::BlockCounters>();
  const auto counted = [&](BlockOptions* options) { options->counters = counters; };
  CHECK(counters->Reads().ops == 0 && counters->Writes().latency_max_ns == 0);
  {
    Disk disk(io, counted);
    CHECK(disk.guest.Do(VIRTIO_BLK_T_OUT, 0, {{kData, 1024}}) == kOk);
    CHECK(disk.guest.Do(VIRTIO_BLK_T_IN, 0, {{kData, 512, true}}) == kOk);
    CHECK(disk.guest.Do(VIRTIO_BLK_T_FLUSH, 0, {}) == kOk);
    CHECK(disk.guest.Do(VIRTIO_BLK_T_IN, 1 << 20, {{kData, 512, true}}) == kIoErr);
    CHECK(ftruncate(disk.fd(), 0) == 0);
    CHECK(disk.guest.Do(VIRTIO_BLK_T_IN, 0, {{kData, 512, true}}) == kIoErr);
  }
  Disk disk(io, counted);
  CHECK(disk.guest.Do(VIRTIO_BLK_T_IN, 0, {{kData, 2048, true}}) == kOk);
  disk.Stop();

  const vmm::OpTotals reads = counters->Reads(), writes = counters->Writes();
  CHECK(reads.ops == 2 && reads.bytes == 2560 && writes.ops == 1 && writes.bytes == 1024);
  CHECK(0 < reads.latency_min_ns && reads.latency_max_ns < 10'000'000'000);
  CHECK(reads.latency_sum_ns == reads.latency_min_ns + reads.latency_max_ns);
  CHECK(writes.latency_min_ns == writes.latency_max_ns);
}

}  // namespace

int main() {
  const std::pair<IoKind, std::string> kinds[] = {
      {IoKind::kIoUring, "io_uring"}, {IoKind::kAio, "aio"}, {IoKind::kSync, "sync"}};
  for (const auto& [io, name] : kinds) {
    const auto test = [&, io = io](const std::string& says, auto body) {
      Test((name + ": " + says).c_str(), [&] { body(io); });
    };
    test("what is written is read, by sector and piece", WritesAndReads);
    test("what needs no I/O is answered at once, with the bytes written", AnswersAtOnce);
    test("discards and zeroes read as zeroes, and nothing else does", DiscardsAndZeroes);
    test("a write-through disk writes, and becomes write-back", Durable);
    test("a read beyond the file's end fails and is told of once", Truncated);
    test("a full disk and a file that cannot be written fail the write only", HostErrors);
    test("many at a time each get their own bytes", [](IoKind kind) { ManyAtATime(kind, true); });
    test("so they do without event indexes", [](IoKind kind) { ManyAtATime(kind, false); });
    test("what O_DIRECT would refuse goes through a buffer", Unaligned);
    test("limits of bytes and requests hold within 5 %", KeepsToLimits);
    test("data counts as bytes, all that goes to the image as a request", CountsAgainstLimits);
    test("disks that share a limit keep to it together, and both get on", SharesLimits);
    test("what is done with success is counted, also over two engines", Counts);
    test("pauses, resumes and a stop under load lose nothing", Storm);
  }
}
