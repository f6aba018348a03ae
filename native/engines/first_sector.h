#pragma once
#include <array>
#include <cstddef>
#include <vector>

#include "block_request.h"

namespace vmm {

/// A copy of what a write puts into the first sector of an image, which is looked at and is what
/// goes to the image: the guest may change its own meanwhile.
class FirstSector {
 public:
  /// Has `request`, a write from offset 0 on, take its first sector from here. False if that would
  /// be the header of another image format than raw; then `request` is as it was.
  [[nodiscard]] bool Take(BlockRequest* request) {
    size_t copied = 0;
    std::vector<iovec> data = {{bytes_.data(), bytes_.size()}};
    for (const iovec& piece : request->data) {
      const size_t part = std::min(piece.iov_len, bytes_.size() - copied);
      auto* from = static_cast<std::byte*>(piece.iov_base);
      std::memcpy(bytes_.data() + copied, from, part);
      copied += part;
      if (part < piece.iov_len) data.push_back({from + part, piece.iov_len - part});
    }
    asm volatile("" : "+m"(bytes_));  // else the compiler may fetch from guest RAM again
    if (StartsWith("QFI\xfb") || StartsWith("vhdxfile") || StartsWith("conectix")) return false;
    request->data = std::move(data);
    return true;
  }

 private:
  template <size_t N>
  bool StartsWith(const char (&signature)[N]) const {
    return std::memcmp(bytes_.data(), signature, N - 1) == 0;
  }

  std::array<std::byte, block_request::kSectorBytes> bytes_;
};

}  // namespace vmm
