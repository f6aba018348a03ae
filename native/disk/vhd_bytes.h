#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace vmm {

using Bytes = std::span<const std::byte>;

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
