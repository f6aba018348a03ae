#include "vhd_table.h"

#include <algorithm>

namespace vmm {

int VhdTable::Load(const ImageFile& file, uint64_t offset, size_t size_bytes) {
  offset_ = offset;
  bytes_.resize(size_bytes);
  changed_.assign((size_bytes + kPageBytes - 1) / kPageBytes, false);
  return file.Read(offset, bytes_);
}

void VhdTable::Set(size_t at, std::span<const std::byte> entry) {
  std::copy(entry.begin(), entry.end(), bytes_.begin() + static_cast<ptrdiff_t>(at));
  changed_[at / kPageBytes] = any_changed_ = true;
}

int VhdTable::Flush(const ImageFile& file, std::mutex* guard) {
  const std::lock_guard one(flushing_);
  std::vector<Page> pages;
  {
    const std::lock_guard lock(*guard);
    pages = TakeChanged();
  }
  if (pages.empty()) return 0;
  int rc = file.Sync();
  if (rc == 0) rc = Write(file, pages);
  if (rc == 0) return 0;
  const std::lock_guard lock(*guard);
  for (const Page& page : pages) changed_[page.index] = any_changed_ = true;
  return rc;
}

/// Copies, for what is set while they are written is not covered by the Sync before.
std::vector<VhdTable::Page> VhdTable::TakeChanged() {
  std::vector<Page> pages;
  if (!any_changed_) return pages;
  for (size_t index = 0; index < changed_.size(); ++index) {
    if (!changed_[index]) continue;
    const auto rest = bytes().subspan(index * kPageBytes);
    const auto page = rest.first(std::min(kPageBytes, rest.size()));
    pages.push_back({index, {page.begin(), page.end()}});
    changed_[index] = false;
  }
  any_changed_ = false;
  return pages;
}

int VhdTable::Write(const ImageFile& file, const std::vector<Page>& pages) const {
  for (const Page& page : pages)
    if (const int rc = file.Write(offset_ + page.index * kPageBytes, page.bytes); rc < 0) return rc;
  return 0;
}

}  // namespace vmm
