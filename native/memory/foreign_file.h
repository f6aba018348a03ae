#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace vmm {

/// Maps a part of a file that another process has sent, for the guest to read and write; unmapped
/// when nobody shares it any more. 0, or a negative errno: -ERANGE if the file is shorter, -ENODEV
/// if it is not memory (a memfd, or of tmpfs or hugetlbfs), where a page, and even the file's size,
/// may take as long as whoever serves the file likes. Quick.
int MapForeignFile(int fd, uint64_t file_offset, uint64_t size_bytes,
                   std::shared_ptr<std::byte>* out);

}  // namespace vmm
