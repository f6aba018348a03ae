#pragma once
#include <cstddef>
#include <memory>
#include <span>

namespace vmm {

/// Takes apart what one compressor made, into a buffer of the size that it is to have. Any thread,
/// and several at a time.
class Decompressor {
 public:
  virtual ~Decompressor() = default;
  /// False unless `from` begins with data that fill `into`. Never looks or writes beyond them.
  [[nodiscard]] virtual bool Decompress(std::span<const std::byte> from,
                                        std::span<std::byte> into) const = 0;
};

/// Of raw deflate streams, RFC 1951, with any window.
std::unique_ptr<Decompressor> MakeInflate();

/// Of zstd frames, RFC 8878, by the host's libzstd.so.1. Null if there is none.
std::unique_ptr<Decompressor> MakeZstd();

}  // namespace vmm
