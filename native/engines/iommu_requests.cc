#include "iommu_requests.h"

#include <linux/virtio_iommu.h>

#include <bit>

namespace vmm {

static_assert(std::endian::native == std::endian::little);  // as requests are

void IommuRequests::SetKick(std::shared_ptr<EventFd> kick) {
  const std::lock_guard lock(mutex_);
  kick_ = std::move(kick);
}

void IommuRequests::Open(std::shared_ptr<KickedQueue> queue) {
  const std::lock_guard lock(mutex_);
  queue_ = std::move(queue);
}

void IommuRequests::Write(uint32_t, uint8_t, uint32_t) {
  std::shared_ptr<KickedQueue> queue;
  std::shared_ptr<EventFd> kick;
  {
    const std::lock_guard lock(mutex_);
    queue = queue_;
    kick = kick_;
  }
  const auto serve = [this](Queue* kicked) { return Serve(kicked); };
  if (queue != nullptr && queue->OnKick(serve)) return;
  if (kick != nullptr) kick->Signal();
}

/// No more than the queue holds: else a driver that offers for ever would have the vCPU in here.
bool IommuRequests::Serve(Queue* queue) {
  if (!queue->Begin()) return false;
  for (uint32_t left = queue->size(); left > 0; --left) {
    uint16_t head = 0;
    Queue::Taken taken = queue->Take(&chain_, &head);
    if (taken == Queue::Taken::kNone) {
      if (!queue->EnableKicks()) return true;
      taken = queue->Take(&chain_, &head);
    }
    if (taken != Queue::Taken::kChain) return false;
    const std::optional<uint32_t> written = Answer(chain_);
    if (!written.has_value()) {
      queue->GiveBack({&head, 1});
      return false;
    }
    queue->Complete(head, *written);
  }
  return false;
}

std::optional<uint32_t> IommuRequests::Answer(const Chain& chain) const {
  uint64_t room = 0;
  for (const iovec& piece : chain.writable) room += piece.iov_len;
  virtio_iommu_req_tail tail{};
  if (room < sizeof(tail)) return std::nullopt;
  const std::optional<IoStatus> status = CarryOut(chain);
  if (!status.has_value()) return std::nullopt;
  tail.status = static_cast<uint8_t>(*status);
  if (!Scatter(tail, chain.writable)) return std::nullopt;
  return sizeof(tail);
}

std::optional<IoStatus> IommuRequests::CarryOut(const Chain& chain) const {
  // What the device reads of them; their own tails are what it writes.
  struct Map {
    virtio_iommu_req_head head;
    uint32_t domain;
    uint64_t first, last, gpa;
    uint32_t flags;
  } __attribute__((packed));
  struct Unmap {
    virtio_iommu_req_head head;
    uint32_t domain;
    uint64_t first, last;
    uint32_t reserved;
  } __attribute__((packed));
  static_assert(sizeof(Map) == offsetof(virtio_iommu_req_map, tail));
  static_assert(sizeof(Unmap) == offsetof(virtio_iommu_req_unmap, tail));

  Unmap request;  // of which a MAP has all fields but the last, too
  if (!Gather(chain.readable, 0, &request)) return std::nullopt;
  return domains_->With(request.domain, [&](IoDomain* domain) -> std::optional<IoStatus> {
    if (request.head.type == VIRTIO_IOMMU_T_UNMAP)
      return domain->UnmapIdle(request.first, request.last);
    Map map;
    if (request.head.type != VIRTIO_IOMMU_T_MAP || !Gather(chain.readable, 0, &map))
      return std::nullopt;
    return domain->Map({map.first, map.last, map.gpa, map.flags});
  });
}

}  // namespace vmm
