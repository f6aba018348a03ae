#pragma once
#include <cstddef>
#include <cstdint>

namespace vmm {

/// The host's side of a region of guest RAM, unmapped at its end: so whoever may point there shares
/// it.
class Mapping {
 public:
  /// `may_shrink`: it is of a file that somebody may cut short.
  Mapping(std::byte* host, uint64_t size_bytes, bool may_shrink);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  /// Gives back what it consists of, at once and for good: memory, or the hold on a file. Only the
  /// addresses stay. Who still points there, as a queue does until its next batch and a request in
  /// flight until its end, finds zeroes, and writes for nobody. 0 or a negative errno.
  /// Long: any thread but the JS one.
  int Empty();

 private:
  std::byte* const host_;
  const uint64_t size_bytes_;
  const bool may_shrink_;
};

}  // namespace vmm
