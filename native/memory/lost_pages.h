#pragma once
#include <cstddef>
#include <cstdint>

namespace vmm {

/// Mappings of files that somebody may make shorter while we have them: to touch a page beyond the
/// end is a SIGBUS, which would end the process with every VM's worth of state. Instead the page is
/// replaced by one of zeroes, which belongs to nobody, and whoever touched it goes on.
namespace LostPages {

/// From now on, for `size_bytes` from `at` on. Any thread; at most 64 mappings are guarded at once,
/// and others are as they were.
void Guard(std::byte* at, uint64_t size_bytes);
/// Before it is unmapped.
void Release(std::byte* at);

}  // namespace LostPages
}  // namespace vmm
