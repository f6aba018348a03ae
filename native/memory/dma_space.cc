#include "dma_space.h"

#include <algorithm>

namespace vmm {

void DmaSpace::Attach(std::shared_ptr<const IoDomain> domain, bool bypass,
                      std::shared_ptr<Drain> drain) {
  std::shared_ptr<const IoAttachment> attachment =
      std::make_shared<IoAttachment>(IoAttachment{std::move(domain), bypass});
  {
    const std::lock_guard lock(mutex_);
    attachment_->drain = std::move(drain);
    attachment_.swap(attachment);
  }
  MoveOn();
}

DmaView::DmaView(const Regions& ram, const IoAttachment& attachment, IoMappings* used)
    : ram_(ram),
      attachment_(attachment),
      used_(used),
      lock_(attachment.domain == nullptr ? std::unique_lock<std::mutex>()
                                         : attachment.domain->Lock()) {}

std::shared_ptr<const IoMapping> DmaView::Translate(uint64_t iova, bool writable, uint64_t* part,
                                                    uint64_t* gpa) const {
  if (attachment_.domain == nullptr) return nullptr;
  auto mapping = attachment_.domain->Find(iova);
  if (mapping == nullptr || !(writable ? mapping->writable : mapping->readable)) return nullptr;
  // Not the length of the mapping, which may be 2^64.
  *part = std::min(*part - 1, mapping->last - iova) + 1;
  *gpa = mapping->gpa + (iova - mapping->first);
  return mapping;
}

}  // namespace vmm
