#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "guest_memory.h"
#include "io_domain.h"

namespace vmm {

/// What an IOMMU has a device reach: the mappings of a domain, or all of guest memory, or nothing.
struct IoAttachment {
  std::shared_ptr<const IoDomain> domain;
  bool bypass = false;
  /// Of a change that waits for whoever still goes by this. Nobody reads it.
  mutable std::shared_ptr<Drain> drain = nullptr;
};

/// A device behind an IOMMU, as its virtqueues ask where they may go.
class DmaSpace {
 public:
  /// JS thread. Who looks from now on goes by the new attachment; those who have looked hold
  /// `drain` until they are through.
  void Attach(std::shared_ptr<const IoDomain> domain, bool bypass, std::shared_ptr<Drain> drain);
  std::shared_ptr<const IoAttachment> attachment() const {
    const std::lock_guard lock(mutex_);
    return attachment_;
  }

  /// Moves on when whoever holds an attachment or a mapping for long, as of rings, is to look anew.
  uint64_t generation() const { return generation_.load(); }
  /// JS thread.
  void MoveOn() { generation_.fetch_add(1); }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const IoAttachment> attachment_ = std::make_shared<const IoAttachment>();
  std::atomic<uint64_t> generation_ = 0;
};

/// Guest RAM as a device finds it through its IOMMU at one moment, which lasts as long as this:
/// short, for it holds the domain's lock. Every access is translated and checked.
class DmaView {
 public:
  /// Appends to `used` the mappings by which pointers were handed out. All must outlive this.
  DmaView(const Regions& ram, const IoAttachment& attachment, IoMappings* used);

  /// As Regions::Map, of I/O virtual addresses.
  template <class IovecList>
  [[nodiscard]] bool Map(uint64_t iova, uint64_t len, bool writable, IovecList* out) const {
    if (attachment_.bypass) return ram_.Map(iova, len, writable, out);
    while (len > 0) {
      uint64_t part = len;
      uint64_t gpa = 0;
      auto mapping = Translate(iova, writable, &part, &gpa);
      if (mapping == nullptr || !ram_.Map(gpa, part, writable, out)) return false;
      if (used_->empty() || used_->back() != mapping) used_->push_back(std::move(mapping));
      len -= part;
      if (__builtin_add_overflow(iova, part, &iova) && len > 0) return false;
    }
    return true;
  }

  /// As Regions::Read, of an I/O virtual address.
  template <class T>
  [[nodiscard]] bool Read(uint64_t iova, T* out) const {
    if (attachment_.bypass) return ram_.Read(iova, out);
    auto* at = reinterpret_cast<std::byte*>(out);
    for (uint64_t left = sizeof(T); left > 0;) {
      uint64_t part = left;
      uint64_t gpa = 0;
      if (Translate(iova, false, &part, &gpa) == nullptr || !ram_.ReadPieces(gpa, at, part))
        return false;
      at += part;
      left -= part;
      if (__builtin_add_overflow(iova, part, &iova) && left > 0) return false;
    }
    asm volatile("" : "+m"(*out));  // else the compiler may fetch from guest RAM again
    return true;
  }

 private:
  /// What `iova` is mapped by, where that is, and in `part` how much of `part` follows there. Null
  /// if it is not mapped so.
  std::shared_ptr<const IoMapping> Translate(uint64_t iova, bool writable, uint64_t* part,
                                             uint64_t* gpa) const;

  const Regions& ram_;
  const IoAttachment& attachment_;
  IoMappings* const used_;
  const std::unique_lock<std::mutex> lock_;
};

}  // namespace vmm
