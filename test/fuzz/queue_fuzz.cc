/// Fuzz target: the rings of a virtqueue. The driver offers, takes back and corrupts while the
/// device takes, completes and publishes. Whatever it does, no head is out twice, a broken queue
/// stays broken, and the device writes nothing but what is its own: the used ring.

#include <set>

#include "../../native/virtio/queue.h"
#include "ring_input.h"

namespace {

constexpr uint64_t kDescGpa = 0x100, kAvailGpa = 0x1000, kUsedGpa = 0x1800;
constexpr uint16_t kSizeMax = 64;
constexpr int kStepsMax = 256;

class Harness {
 public:
  Harness(FuzzedDataProvider* input, std::shared_ptr<vmm::GuestMemory> memory,
          const vmm::QueueOptions& options)
      : input_(*input), memory_(std::move(memory)), options_(options), queue_(memory_, options) {
    shadow_.resize(kLowBytes);
  }

  void Run() {
    for (int step = 0; step < kStepsMax && input_.remaining_bytes() > 0; ++step) {
      Drive();
      Remember();
      Serve();
      CheckRam();
    }
  }

 private:
  uint16_t Entry(uint16_t idx) const { return static_cast<uint16_t>(idx % options_.size); }

  void Drive() {
    switch (input_.ConsumeIntegralInRange<int>(0, 4)) {
      case 0:
      case 1: {
        const auto head = input_.ConsumeIntegralInRange<uint16_t>(0, options_.size - 1);
        Write(options_.avail_gpa + 4 + uint64_t{2} * Entry(avail_idx_++), head);
        return Write(options_.avail_gpa + 2, avail_idx_);
      }
      case 2:
        return Write(options_.avail_gpa + (input_.ConsumeBool() ? 0 : 4 + 2 * options_.size),
                     input_.ConsumeIntegral<uint16_t>());
      case 3: {
        const auto index = input_.ConsumeIntegralInRange<uint16_t>(0, options_.size - 1);
        const vmm::Descriptor desc = DrawDescriptor(&input_, index, options_.size);
        return Write(options_.desc_gpa + uint64_t{16} * index, desc);
      }
      default:
        if (!Rarely(&input_)) return;
        avail_idx_ = input_.ConsumeIntegral<uint16_t>();
        Write(options_.avail_gpa + 2, avail_idx_);
        Write(input_.ConsumeIntegralInRange<uint64_t>(0, kLowBytes), avail_idx_);
    }
  }

  template <class T>
  void Write(uint64_t gpa, T value) {
    static_cast<void>(memory_->CopyIn(gpa, &value, sizeof(value)));
  }

  void Serve() {
    HOLDS(queue_.Begin() == (queue_.fault() == nullptr));
    switch (input_.ConsumeIntegralInRange<int>(0, 3)) {
      case 0:
      case 1:
        return Take();
      case 2: {
        if (out_.empty()) return;
        const auto head =
            *out_.lower_bound(input_.ConsumeIntegralInRange<uint16_t>(0, *out_.rbegin()));
        queue_.Complete(head, head);
        out_.erase(head);
        HOLDS(queue_.in_flight_count() == out_.size());
        return;
      }
      default:
        static_cast<void>(queue_.Publish());
        if (input_.ConsumeBool()) return queue_.DisableKicks();
        static_cast<void>(queue_.EnableKicks());
    }
  }

  void Take() {
    uint16_t head = 0;
    const vmm::Queue::Taken taken = queue_.Take(&chain_, &head);
    HOLDS((taken == vmm::Queue::Taken::kBroken) == (queue_.fault() != nullptr));
    if (taken != vmm::Queue::Taken::kChain) return;
    HOLDS(head < options_.size && out_.insert(head).second);
    HOLDS(queue_.in_flight_count() == out_.size());
    CheckChain(*queue_.regions(), chain_);
  }

  void Remember() {
    was_broken_ = queue_.fault() != nullptr;
    HOLDS(memory_->CopyOut(0, shadow_.data(), shadow_.size()) == 0);
  }

  /// What the device has written lies between the start and the end of its used ring, and is
  /// nothing if the queue was broken.
  void CheckRam() {
    const std::byte* ram = memory_->Snapshot()->Contiguous(0, kLowBytes, true);
    const uint64_t end = options_.used_gpa + 6 + uint64_t{8} * options_.size;
    const auto same = [&](uint64_t from, uint64_t to) {
      return from >= to || std::memcmp(ram + from, shadow_.data() + from, to - from) == 0;
    };
    HOLDS(!was_broken_ || same(0, kLowBytes));
    HOLDS(same(0, std::min(options_.used_gpa, kLowBytes)));
    HOLDS(same(std::min(end, kLowBytes), kLowBytes));
  }

  FuzzedDataProvider& input_;
  const std::shared_ptr<vmm::GuestMemory> memory_;
  const vmm::QueueOptions options_;
  vmm::Queue queue_;
  vmm::Chain chain_;
  std::vector<std::byte> shadow_;
  std::set<uint16_t> out_;
  uint16_t avail_idx_ = 0;
  bool was_broken_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  const auto memory = ZeroedRam();
  vmm::QueueOptions options{.desc_gpa = kDescGpa, .avail_gpa = kAvailGpa, .used_gpa = kUsedGpa};
  options.size = static_cast<uint16_t>(1 << input.ConsumeIntegralInRange<uint16_t>(0, 6));
  options.indirect = input.ConsumeBool();
  options.event_idx = input.ConsumeBool();
  if (Rarely(&input)) options.used_gpa = input.ConsumeIntegralInRange<uint64_t>(0, kEndGpa);
  if (Rarely(&input)) options.avail_gpa = input.ConsumeIntegral<uint64_t>();
  DrawTable(&input, *memory, kDescGpa, std::min<uint16_t>(options.size, kSizeMax));
  Harness(&input, memory, options).Run();
  return 0;
}
