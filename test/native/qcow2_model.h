#pragma once
#include <sys/mman.h>

#include <atomic>
#include <vector>

#include "qcow2_support.h"

/// What each sector of a disk may hold after a crash: what it held at the last flush, or any of
/// what was written to it since. A sector that is written holds its own number and that of the
/// write. The model is shared with processes that are forked, and right whenever one is killed.
class Model {
 public:
  static constexpr uint64_t kSector = 512;
  explicit Model(uint64_t size_bytes) : count_(size_bytes / kSector) {
    void* shared = mmap(nullptr, sizeof(Shared) + count_ * sizeof(Sector), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    shared_ = static_cast<Shared*>(shared);
    sectors_ = reinterpret_cast<Sector*>(shared_ + 1);
  }
  ~Model() { munmap(shared_, sizeof(Shared) + count_ * sizeof(Sector)); }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  uint64_t count() const { return count_; }

  /// The data of a write, which from now on may be found.
  std::vector<std::byte> Write(uint64_t first, uint64_t count) {
    const uint64_t write = ++shared_->newest;
    std::vector<std::byte> bytes(count * kSector);
    for (uint64_t i = 0; i < count; ++i) {
      sectors_[first + i].now = write;
      const uint64_t word = (first + i) << 32 | write;
      for (size_t at = 0; at < kSector; at += sizeof(word))
        std::memcpy(&bytes[i * kSector + at], &word, sizeof(word));
    }
    return bytes;
  }
  /// They may be found as zeroes, and are to be from now on.
  void Zero(uint64_t first, uint64_t count) {
    for (uint64_t i = first; i < first + count; ++i) {
      sectors_[i].now = 0;
      sectors_[i].zeroed = true;
    }
  }
  void Flushed() {
    for (uint64_t i = 0; i < count_; ++i) {
      sectors_[i].flushed = sectors_[i].now;
      std::atomic_signal_fence(std::memory_order_seq_cst);
      sectors_[i].zeroed = false;
    }
    std::atomic_signal_fence(std::memory_order_seq_cst);
    shared_->flushed = shared_->newest;
  }

  /// Whether a disk that was not cut off holds what was written last.
  bool IsNow(const std::vector<std::byte>& disk) const {
    return Holds(disk, [](const Sector& sector, uint64_t write) { return write == sector.now; });
  }
  bool IsAfterCrash(const std::vector<std::byte>& disk) const {
    return Holds(disk, [this](const Sector& sector, uint64_t write) {
      return write == sector.flushed || (write == 0 ? sector.zeroed : write > shared_->flushed);
    });
  }
  /// What a disk holds is what is known of it: after a crash, what it was left with.
  void Learn(const std::vector<std::byte>& disk) {
    for (uint64_t i = 0; i < count(); ++i) sectors_[i].now = Word(disk, i) & 0xffff'ffff;
    Flushed();
  }

 private:
  struct Sector {
    uint64_t now = 0;  // number of the write, 0 of zeroes
    uint64_t flushed = 0;
    bool zeroed = false;  // since the flush
  };
  struct Shared {
    uint64_t newest;   // number of a write
    uint64_t flushed;  // that number, at the last flush
  };

  static uint64_t Word(const std::vector<std::byte>& disk, uint64_t sector) {
    uint64_t word;
    std::memcpy(&word, &disk[sector * kSector], sizeof(word));
    return word;
  }
  template <class Allowed>
  bool Holds(const std::vector<std::byte>& disk, Allowed allowed) const {
    for (uint64_t i = 0; i < count(); ++i) {
      const uint64_t word = Word(disk, i);
      const std::byte* at = &disk[i * kSector];
      const bool whole = std::memcmp(at, at + sizeof(word), kSector - sizeof(word)) == 0;
      const bool here = word == 0 || word >> 32 == i;
      if (whole && here && allowed(sectors_[i], word & 0xffff'ffff)) continue;
      std::fprintf(stderr, "sector %lu holds %lx of %lx, flushed %lx of %lx\n", i, word,
                   sectors_[i].now, sectors_[i].flushed, shared_->flushed);
      return false;
    }
    return true;
  }

  const uint64_t count_;
  Shared* shared_;
  Sector* sectors_;
};

/// One request drawn at random, by a queue that has no other in flight. 0 or a negative errno; then
/// any part of it may have been carried out.
inline int DoSomething(const Disk& disk, Model* model, std::mt19937_64* random,
                       uint64_t sectors_max = 64) {
  const uint64_t first = Draw(random, model->count());
  const uint64_t count = 1 + Draw(random, std::min(sectors_max, model->count() - first));
  const uint64_t offset = first * Model::kSector;
  const uint64_t length = count * Model::kSector;
  const uint64_t what = Draw(random, 16);
  if (what < 9) return disk.Write(offset, model->Write(first, count));
  if (what == 15) {
    const int rc = disk.Flush();
    if (rc == 0) model->Flushed();
    return rc;
  }
  model->Zero(first, count);
  // A discard leaves what it likes of the edges: only zeroes are told apart here.
  if (what < 12) return disk.Zero(offset, length, what == 11);
  if (const int rc = disk.image().Discard({offset, length}); rc < 0) return rc;
  return disk.Zero(offset, length, true);
}
