#pragma once
#include <napi.h>

#include <memory>
#include <vector>

#include "../virtio/chain.h"
#include "virtqueue_wrap.h"

namespace vmm {

/// `class Chain` of src/native.ts, made by `Virtqueue.take`.
class ChainWrap : public Napi::ObjectWrap<ChainWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit ChainWrap(const Napi::CallbackInfo& info);
  ~ChainWrap() override { Drop(); }

  /// From now on it does nothing. It lets go of guest RAM, which must not stay until JS forgets it.
  void Drop();

  /// What `Virtqueue.take` makes one of.
  struct Taken {
    std::shared_ptr<VirtqueueWrap::Link> link;
    std::shared_ptr<const Regions> regions;
    const Chain* chain;
    uint16_t head;
  };

 private:
  /// One direction: as long as it is, while a `Chain` has room for the longest.
  struct Buffers {
    std::vector<iovec> pieces;
    uint64_t bytes = 0;
    void operator=(const Segments& segments) {
      pieces.assign(segments.begin(), segments.end());
      for (const iovec& piece : pieces) bytes += piece.iov_len;
    }
  };

  Napi::Value ReadableBytes(const Napi::CallbackInfo& info);
  Napi::Value WritableBytes(const Napi::CallbackInfo& info);
  Napi::Value Read(const Napi::CallbackInfo& info);
  Napi::Value Write(const Napi::CallbackInfo& info);
  Napi::Value WritableRanges(const Napi::CallbackInfo& info);
  Napi::Value Complete(const Napi::CallbackInfo& info);

  std::shared_ptr<VirtqueueWrap::Link> link_;  // null once it does nothing
  std::shared_ptr<const Regions> regions_;
  Buffers readable_, writable_;
  uint16_t head_ = 0;
};

}  // namespace vmm
