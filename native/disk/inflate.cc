#include "inflate.h"

#include <dlfcn.h>
#include <zlib.h>

#include <cstdint>

namespace vmm {
namespace {

class Inflate final : public Decompressor {
 public:
  bool Decompress(std::span<const std::byte> from, std::span<std::byte> into) const override {
    z_stream stream{};
    if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) return false;
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(from.data()));
    stream.avail_in = static_cast<uInt>(from.size());
    stream.next_out = reinterpret_cast<Bytef*>(into.data());
    stream.avail_out = static_cast<uInt>(into.size());
    // Z_BUF_ERROR: the buffer is full, and the stream goes on.
    const int rc = inflate(&stream, Z_FINISH);
    const bool full = stream.avail_out == 0;
    inflateEnd(&stream);
    return full && (rc == Z_STREAM_END || rc == Z_BUF_ERROR || rc == Z_OK);
  }
};

/// Plain calls that decompress a frame from buffer to buffer: a stream would be given a window of
/// up to 128 MiB, as large as the frame likes.
class Zstd final : public Decompressor {
 public:
  Zstd() : library_(dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) return;
    Find("ZSTD_findFrameCompressedSize", &frame_bytes_);
    Find("ZSTD_decompress", &decompress_);
    Find("ZSTD_isError", &is_error_);
  }
  ~Zstd() override {
    if (library_ != nullptr) dlclose(library_);
  }
  Zstd(const Zstd&) = delete;
  Zstd& operator=(const Zstd&) = delete;

  bool ok() const {
    return frame_bytes_ != nullptr && decompress_ != nullptr && is_error_ != nullptr;
  }

  bool Decompress(std::span<const std::byte> from, std::span<std::byte> into) const override {
    // What stands behind the frame is not ours to judge.
    const size_t frame = frame_bytes_(from.data(), from.size());
    if (is_error_(frame) != 0 || frame > from.size()) return false;
    return decompress_(into.data(), into.size(), from.data(), frame) == into.size();
  }

 private:
  template <class Function>
  void Find(const char* name, Function** out) {
    *out = reinterpret_cast<Function*>(dlsym(library_, name));
  }

  void* library_;
  size_t (*frame_bytes_)(const void*, size_t) = nullptr;
  size_t (*decompress_)(void*, size_t, const void*, size_t) = nullptr;
  unsigned (*is_error_)(size_t) = nullptr;
};

}  // namespace

std::unique_ptr<Decompressor> MakeInflate() { return std::make_unique<Inflate>(); }

std::unique_ptr<Decompressor> MakeZstd() {
  auto zstd = std::make_unique<Zstd>();
  return zstd->ok() ? std::move(zstd) : nullptr;
}

}  // namespace vmm
