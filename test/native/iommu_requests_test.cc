#include "../../native/engines/iommu_requests.h"

#include <linux/virtio_iommu.h>

#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "driver.h"

namespace {

using vmm::IoDomain;
using vmm::IoDomains;
using vmm::IoLimits;
using vmm::IommuRequests;
using vmm::KickedQueue;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kAnswers = 0x40000;  // of the request in slot n at n * 16

/// A queue of requests, kicked by the test as a vCPU would, and by nobody else.
struct Bench {
  static constexpr uint16_t kSize = 16;

  std::shared_ptr<vmm::GuestMemory> memory = MakeRam();
  Driver driver{memory, {.size = kSize, .event_idx = true}};
  std::shared_ptr<vmm::Queue> queue =
      std::make_shared<vmm::Queue>(memory, driver.options(), nullptr);
  std::shared_ptr<IoLimits> limits = std::make_shared<IoLimits>();
  std::shared_ptr<IoDomains> domains = std::make_shared<IoDomains>(limits);
  std::shared_ptr<IoDomain> domain = std::make_shared<IoDomain>(limits);
  std::shared_ptr<vmm::EventFd> irq = std::make_shared<vmm::EventFd>();
  std::shared_ptr<vmm::EventFd> kick = std::make_shared<vmm::EventFd>();
  std::shared_ptr<KickedQueue> kicked = std::make_shared<KickedQueue>(queue, irq);
  IommuRequests requests{domains};

  Bench() {
    limits->last = UINT64_MAX;
    limits->reserved_first = 0xfee0'0000;
    limits->reserved_last = 0xfeef'ffff;
    limits->mappings_max = 1000;
    domains->Put(1, domain);
    requests.SetKick(kick);
    requests.Open(kicked);
  }
  /// A request with `read_bytes` of it for the device to read, and room for the answer.
  template <class Request>
  void Offer(uint16_t slot, const Request& request, uint32_t read_bytes = offsetof(Request, tail),
             uint32_t room_bytes = 4) {
    const uint64_t gpa = 0x20000 + uint64_t{0x100} * slot;
    std::memcpy(driver.At<Request>(gpa), &request, sizeof(request));
    std::memset(driver.At<uint32_t>(kAnswers + uint64_t{16} * slot), 0xee, 4);
    const auto head = static_cast<uint16_t>(2 * slot);
    driver.DescribeChain(head,
                         {{gpa, read_bytes}, {kAnswers + uint64_t{16} * slot, room_bytes, true}});
    driver.Offer(head);
  }
  void Kick() { requests.Write(0, 2, 0); }
  /// The status of the answer; nothing if there is none.
  std::optional<uint8_t> Answer() {
    Used used{};
    if (!driver.TakeUsed(&used)) return std::nullopt;
    CHECK(used.written == 4);
    const auto* answer = driver.At<uint8_t>(kAnswers + uint64_t{16} * (used.head / 2));
    CHECK(answer[1] == 0 && answer[2] == 0 && answer[3] == 0);
    return answer[0];
  }
  bool HasKicked() { return kick->Take(); }
};

virtio_iommu_req_map Map(uint64_t page, uint32_t domain = 1, uint32_t flags = 3) {
  virtio_iommu_req_map map{};
  map.head.type = VIRTIO_IOMMU_T_MAP;
  map.domain = domain;
  map.virt_start = page * kPage;
  map.virt_end = page * kPage + kPage - 1;
  map.phys_start = 0x50000;
  map.flags = flags;
  return map;
}

virtio_iommu_req_unmap Unmap(uint64_t first_page, uint64_t pages = 1) {
  virtio_iommu_req_unmap unmap{};
  unmap.head.type = VIRTIO_IOMMU_T_UNMAP;
  unmap.domain = 1;
  unmap.virt_start = first_page * kPage;
  unmap.virt_end = (first_page + pages) * kPage - 1;
  return unmap;
}

virtio_iommu_req_attach Attach() {
  virtio_iommu_req_attach attach{};
  attach.head.type = VIRTIO_IOMMU_T_ATTACH;
  attach.domain = 1;
  return attach;
}

void AnswersWhoKicks() {
  Bench bench;
  bench.driver.EnableInterrupts();
  bench.Offer(0, Map(5));
  bench.Offer(1, Map(5));
  bench.Offer(2, Map(6, 1, VIRTIO_IOMMU_MAP_F_READ));
  CHECK(bench.driver.WantsKick());
  bench.Kick();
  CHECK(bench.Answer() == VIRTIO_IOMMU_S_OK);
  CHECK(bench.Answer() == VIRTIO_IOMMU_S_INVAL);
  CHECK(bench.Answer() == VIRTIO_IOMMU_S_OK);
  CHECK(!bench.HasKicked() && bench.irq->Take());
  {
    const auto lock = bench.domain->Lock();
    const auto found = bench.domain->Find(5 * kPage + 7);
    CHECK(found != nullptr && found->gpa == 0x50000 && found->readable && found->writable);
    CHECK(!bench.domain->Find(6 * kPage)->writable);
  }
  bench.Offer(3, Unmap(4, 3));
  CHECK(bench.driver.WantsKick());
  bench.Kick();
  CHECK(bench.Answer() == VIRTIO_IOMMU_S_OK && bench.limits->mapping_count == 0);
  CHECK(bench.queue->in_flight_count() == 0);
}

/// From the first that is not for here on, all are the owner's, who is kicked, in order.
template <class Request>
void LeavesToOwner(const Request& request, uint32_t read_bytes = offsetof(Request, tail),
                   uint32_t room_bytes = 4) {
  Bench bench;
  bench.Offer(0, Map(1));
  bench.Offer(1, request, read_bytes, room_bytes);
  bench.Offer(2, Map(2));
  bench.Kick();
  CHECK(bench.Answer() == VIRTIO_IOMMU_S_OK && !bench.Answer().has_value());
  CHECK(bench.HasKicked() && bench.limits->mapping_count == 1);
  const KickedQueue::Turn turn(bench.kicked);
  vmm::Chain chain;
  for (const uint16_t expected : {2, 4}) {
    uint16_t head = 0;
    CHECK(bench.queue->Begin() && bench.queue->Take(&chain, &head) == vmm::Queue::Taken::kChain);
    CHECK(head == expected);
  }
}

void LeavesWhatIsInUse() {
  Bench bench;
  CHECK(bench.domain->Map({0, kPage - 1, 0, 3}) == vmm::IoStatus::kOk);
  std::shared_ptr<const vmm::IoMapping> held;
  {
    const auto lock = bench.domain->Lock();
    held = bench.domain->Find(0);
  }
  bench.Offer(0, Unmap(0));
  bench.Kick();
  CHECK(!bench.Answer().has_value() && bench.HasKicked() && bench.limits->mapping_count == 1);
  held = nullptr;
  bench.Kick();
  CHECK(bench.Answer() == VIRTIO_IOMMU_S_OK && !bench.HasKicked());
}

void OwnersTurnIsHis() {
  Bench bench;
  bench.Offer(0, Map(1));
  {
    const KickedQueue::Turn turn(bench.kicked);
    const KickedQueue::Turn within(bench.kicked);
    bench.Kick();
    CHECK(!bench.Answer().has_value() && bench.HasKicked());
  }
  bench.Kick();
  CHECK(bench.Answer() == VIRTIO_IOMMU_S_OK && !bench.HasKicked());
  bench.Offer(1, Map(2));
  bench.kicked->Close();
  bench.Kick();
  CHECK(!bench.Answer().has_value() && bench.HasKicked());
}

/// A driver may offer for ever, the same again while it is served: then the owner goes on.
void ServesNoMoreThanTheQueueHolds() {
  Bench bench;
  bench.Offer(0, Map(1));
  for (uint32_t i = 1; i < Bench::kSize; ++i) bench.driver.Offer(0);
  bench.Kick();
  for (uint32_t i = 0; i < Bench::kSize; ++i) CHECK(bench.Answer() == VIRTIO_IOMMU_S_INVAL);
  CHECK(!bench.Answer().has_value() && bench.HasKicked());
}

void BreaksAreTheOwners() {
  Bench bench;
  bench.driver.Offer(Bench::kSize);  // beyond the table
  bench.Kick();
  CHECK(bench.HasKicked() && bench.queue->fault() != nullptr);
  bench.Kick();
  CHECK(bench.HasKicked());
}

/// vCPUs that kick at once, and an owner that takes his turns.
void ServesManyAtOnce() {
  constexpr int kRounds = 100;
  Bench bench;
  std::atomic<bool> stop = false;
  std::vector<std::thread> vcpus;
  for (int n = 0; n < 2; ++n)
    vcpus.emplace_back([&] {
      while (!stop.load()) {
        bench.Kick();
        std::this_thread::yield();
      }
    });
  std::thread owner([&] {
    while (!stop.load()) {
      {
        const KickedQueue::Turn turn(bench.kicked);
        static_cast<void>(bench.queue->Begin());
      }
      std::this_thread::yield();
    }
  });
  for (int round = 0; round < kRounds; ++round) {
    bench.Offer(0, Map(1));
    std::optional<uint8_t> answer;
    while (!(answer = bench.Answer()).has_value()) std::this_thread::yield();
    CHECK(answer == VIRTIO_IOMMU_S_OK);
    bench.Offer(1, Unmap(1));
    while (!(answer = bench.Answer()).has_value()) std::this_thread::yield();
    CHECK(answer == VIRTIO_IOMMU_S_OK);
  }
  stop.store(true);
  for (std::thread& vcpu : vcpus) vcpu.join();
  owner.join();
}

}  // namespace

int main() {
  Test("MAP and UNMAP are answered to who kicks", AnswersWhoKicks);
  Test("another type of request is the owner's", [] { LeavesToOwner(Attach()); });
  Test("another domain is", [] { LeavesToOwner(Map(3, 2)); });
  Test("a request that is cut short is", [] { LeavesToOwner(Map(3), 35); });
  Test("one without room for an answer is", [] { LeavesToOwner(Map(3), 36, 3); });
  Test("an UNMAP of what is in use is", LeavesWhatIsInUse);
  Test("in its owner's turn nobody else serves it, nor once it is closed", OwnersTurnIsHis);
  Test("who offers for ever has nobody in here for ever", ServesNoMoreThanTheQueueHolds);
  Test("a queue that is broken is the owner's", BreaksAreTheOwners);
  Test("many kick at once", ServesManyAtOnce);
}
