#pragma once
#include <cstddef>
#include <cstring>
#include <vector>

namespace vmm {

/// A KVM argument of the kind "header, then as many entries as the header says", as ioctl wants it.
template <class Header, class Entry>
class Flexible {
 public:
  Flexible(Header header, const std::vector<Entry>& entries)
      : bytes_(sizeof(Header) + entries.size() * sizeof(Entry)) {
    std::memcpy(bytes_.data(), &header, sizeof(header));
    if (!entries.empty())
      std::memcpy(bytes_.data() + sizeof(header), entries.data(), entries.size() * sizeof(Entry));
  }
  void* get() { return bytes_.data(); }
  Header header() const {
    Header header;
    std::memcpy(&header, bytes_.data(), sizeof(header));
    return header;
  }
  Entry entry(size_t index) const {
    Entry entry;
    std::memcpy(&entry, bytes_.data() + sizeof(Header) + index * sizeof(Entry), sizeof(entry));
    return entry;
  }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace vmm
