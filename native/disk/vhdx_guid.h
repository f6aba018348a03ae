#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "vhd_bytes.h"

namespace vmm {

/// As it lies in the file: the first three of its five parts least significant byte first.
using VhdxGuid = std::array<std::byte, 16>;

namespace vhdx_guid {
/// Which byte each pair of digits of the text is.
constexpr size_t kPlaces[] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
}  // namespace vhdx_guid

/// `text` as in the specification, with digits and capital letters.
consteval VhdxGuid GuidOf(const char* text) {
  VhdxGuid guid{};
  for (const size_t place : vhdx_guid::kPlaces) {
    if (*text == '-') ++text;
    uint8_t value = 0;
    for (int digit = 0; digit < 2; ++digit, ++text)
      value = static_cast<uint8_t>(value << 4 | (*text <= '9' ? *text - '0' : *text - 'A' + 10));
    guid[place] = std::byte{value};
  }
  return guid;
}

inline VhdxGuid LoadGuid(Bytes from, size_t at) {
  VhdxGuid guid;
  std::memcpy(guid.data(), from.subspan(at, guid.size()).data(), guid.size());
  return guid;
}

inline std::string TextOf(const VhdxGuid& guid) {
  std::string text;
  for (const size_t place : vhdx_guid::kPlaces) {
    if (place == 5 || place == 7 || place == 8 || place == 10) text += '-';
    const auto value = std::to_integer<size_t>(guid[place]);
    text += {"0123456789ABCDEF"[value >> 4], "0123456789ABCDEF"[value & 15]};
  }
  return text;
}

}  // namespace vmm
