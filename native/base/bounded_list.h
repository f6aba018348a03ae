#pragma once
#include <array>
#include <cstddef>

namespace vmm {

/// A list with a limit, because everything a guest can grow has one.
template <class T, size_t N>
struct BoundedList {
  std::array<T, N> items;
  size_t count = 0;
  [[nodiscard]] bool push_back(T item) { return count < N && ((items[count++] = item), true); }
  const T* begin() const { return items.data(); }
  const T* end() const { return items.data() + count; }
};

}  // namespace vmm
