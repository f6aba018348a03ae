#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>

namespace vmm {

using Bytes = std::span<const std::byte>;

/// A stretch of a file, in bytes: [begin, end).
struct FileRange {
  uint64_t begin = 0;
  uint64_t end = 0;
  bool Overlaps(const FileRange& other) const { return begin < other.end && other.begin < end; }
};

/// `step` is a power of two; the result must not be beyond 2^64.
constexpr uint64_t AlignUp(uint64_t value, uint64_t step) {
  return (value + step - 1) & ~(step - 1);
}

/// For what is not opened: why, in words that end in a remedy, and the errno to return.
inline int Refuse(int rc, std::string* why, std::string reason) {
  *why = std::move(reason);
  return rc;
}

/// The unsigned number at `at`, most significant byte first.
template <class T>
T LoadBig(Bytes from, size_t at) {
  uint64_t value = 0;
  for (const std::byte byte : from.subspan(at, sizeof(T)))
    value = value << 8 | std::to_integer<uint64_t>(byte);
  return static_cast<T>(value);
}

template <class T>
void StoreBig(std::span<std::byte> into, size_t at, T value) {
  for (size_t i = 0; i < sizeof(T); ++i)
    into[at + i] = static_cast<std::byte>(value >> (8 * (sizeof(T) - 1 - i)));
}

static_assert(std::endian::native == std::endian::little);

/// The unsigned number at `at`, least significant byte first.
template <class T>
T LoadLittle(Bytes from, size_t at) {
  T value;
  std::memcpy(&value, from.subspan(at, sizeof(T)).data(), sizeof(T));
  return value;
}

template <class T>
void StoreLittle(std::span<std::byte> into, size_t at, T value) {
  std::memcpy(into.subspan(at, sizeof(T)).data(), &value, sizeof(T));
}

/// Whether `what` stands at `at`.
inline bool HasText(Bytes from, size_t at, const char* what) {
  return std::memcmp(from.subspan(at, std::strlen(what)).data(), what, std::strlen(what)) == 0;
}

}  // namespace vmm
