/// Fuzz target: frames of a network card. The driver offers rooms and frames as it likes, or
/// corrupts its rings, while the host sends and a stand-in for the tap fills up. Whatever they do,
/// each direction ends its round and holds nothing after a pause; and what a driver by the rules
/// gets, or sends, is what the other side sent, or gets, whole and in order.

#include <sys/socket.h>

#include <array>
#include <deque>

#include "../../native/base/fd.h"
#include "../../native/engines/net_rx.h"
#include "../../native/engines/net_tx.h"
#include "../../native/sys/tap.h"
#include "driver_ring.h"

namespace {

using Bytes = std::vector<uint8_t>;

constexpr uint16_t kSize = 16, kChains = kSize / 2;  // of two descriptors each
constexpr uint64_t kRoomsGpa = 0x1000, kRoomBytes = 0x200, kFramesGpa = 0x2000;
constexpr uint32_t kPieceBytesMax = kLowBytes - kFramesGpa;
constexpr size_t kFrameBytesMax = 4096, kNumBuffersAt = 10;
constexpr int kStepsMax = 64;
constexpr int64_t kPatienceNs = 60'000'000'000;

/// What one side sent and the other has not got yet. Those in between may have been dropped.
class Sent {
 public:
  void Add(Bytes frame) { frames_.push_back(std::move(frame)); }
  void HoldsNext(const Bytes& frame) {
    while (!frames_.empty() && frames_.front() != frame) frames_.pop_front();
    HOLDS(!frames_.empty());
    frames_.pop_front();
  }

 private:
  std::deque<Bytes> frames_;
};

class Harness {
 public:
  Harness(FuzzedDataProvider* input, vmm::NetRxOptions options)
      : input_(*input),
        event_idx_(input->ConsumeBool()),
        rx_(rx_ring_.Device(event_), port_, options),
        tx_(tx_ring_.Device(event_), port_, nullptr) {
    int fds[2];
    HOLDS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    host_ = vmm::Fd(fds[0]);
    tap_ = vmm::Fd(fds[1]);
    port_->tap = fds[1];
    std::array<uint8_t, kPieceBytesMax> pattern{};
    for (size_t i = 0; i < pattern.size(); ++i) pattern[i] = static_cast<uint8_t>(i + i / 251);
    HOLDS(memory_->CopyIn(kFramesGpa, pattern.data(), pattern.size()) == 0);
  }

  void Run() {
    for (int step = 0; step < kStepsMax && input_.remaining_bytes() > 0; ++step) Step();
    rx_.Leave();
    HOLDS(rx_.queue().queue->in_flight_count() == 0);
  }

 private:
  void Step() {
    switch (input_.ConsumeIntegralInRange<int>(0, 7)) {
      case 0:
      case 1:
        return OfferRoom();
      case 2:
        return OfferFrame();
      case 3:
        return PutFrame();
      case 4:
        return Receive();
      case 5:
        return Send();
      case 6:
        return TakeFrames();
      default:
        if (!Rarely(&input_)) return;
        corrupt_ = true;
        (input_.ConsumeBool() ? rx_ring_ : tx_ring_).Corrupt(&input_);
    }
  }

  /// A chain that is not out, or kChains.
  static size_t Free(const std::array<bool, kChains>& out) {
    return static_cast<size_t>(std::find(out.begin(), out.end(), false) - out.begin());
  }
  static void Describe(const Ring& ring, size_t chain, iovec first, iovec second, uint16_t flags) {
    const auto head = static_cast<uint16_t>(2 * chain);
    const auto gpa = [](const iovec& piece) { return reinterpret_cast<uint64_t>(piece.iov_base); };
    ring.Describe(head, {gpa(first), static_cast<uint32_t>(first.iov_len),
                         static_cast<uint16_t>(flags | vmm::kDescriptorNext),
                         static_cast<uint16_t>(head + 1)});
    ring.Describe(static_cast<uint16_t>(head + 1),
                  {gpa(second), static_cast<uint32_t>(second.iov_len), flags, 0});
  }
  static iovec Piece(uint64_t gpa, size_t bytes) { return {reinterpret_cast<void*>(gpa), bytes}; }

  void OfferRoom() {
    const size_t chain = Free(rooms_out_);
    if (chain == kChains) return;
    const size_t least = Rarely(&input_) ? 0 : vmm::kFrameHeaderBytes;
    const auto bytes = input_.ConsumeIntegralInRange<size_t>(least, kRoomBytes);
    const auto cut = input_.ConsumeIntegralInRange<size_t>(0, bytes);
    const uint64_t gpa = kRoomsGpa + kRoomBytes * chain;
    Describe(rx_ring_, chain, Piece(gpa, cut), Piece(gpa + cut, bytes - cut),
             vmm::kDescriptorWrite);
    rooms_out_[chain] = true;
    rx_ring_.Offer(static_cast<uint16_t>(2 * chain));
  }

  void OfferFrame() {
    const size_t chain = Free(frames_out_);
    if (chain == kChains) return;
    const size_t most = input_.ConsumeBool() ? 64 : kPieceBytesMax;
    const auto first = input_.ConsumeIntegralInRange<size_t>(0, most);
    const auto second = input_.ConsumeIntegralInRange<size_t>(0, most);
    Describe(tx_ring_, chain, Piece(kFramesGpa, first), Piece(kFramesGpa, second), 0);
    Bytes frame(first + second);
    HOLDS(memory_->CopyOut(kFramesGpa, frame.data(), first) == 0);
    HOLDS(memory_->CopyOut(kFramesGpa, frame.data() + first, second) == 0);
    by_guest_.Add(std::move(frame));
    frames_out_[chain] = true;
    tx_ring_.Offer(static_cast<uint16_t>(2 * chain));
  }

  void PutFrame() {
    Bytes frame(input_.ConsumeIntegralInRange<size_t>(1, kFrameBytesMax));
    for (uint8_t& byte : frame) byte = static_cast<uint8_t>(++seed_);
    if (send(host_.get(), frame.data(), frame.size(), MSG_NOSIGNAL) > 0)
      by_host_.Add(std::move(frame));
  }

  void Receive() {
    static_cast<void>(rx_.Round());
    if (input_.ConsumeBool()) static_cast<void>(rx_.EnableKicks());
    if (input_.ConsumeBool()) {
      rx_.Leave();
      HOLDS(rx_.queue().queue->in_flight_count() == 0);
    }
    while (!corrupt_ && TakeReceived()) continue;
  }

  /// A driver that corrupts its rings may have anything written into them.
  bool TakeReceived() {
    Bytes frame;
    uint16_t buffers = 1;
    for (uint16_t i = 0; i < buffers; ++i) {
      uint32_t used[2];
      const bool any = rx_ring_.TakeUsed(used);
      HOLDS(any || i == 0);
      if (!any) return false;
      HOLDS(used[0] % 2 == 0 && used[0] < kSize && rooms_out_[used[0] / 2]);
      rooms_out_[used[0] / 2] = false;
      Bytes part(used[1]);
      HOLDS(part.size() <= kRoomBytes);
      HOLDS(memory_->CopyOut(kRoomsGpa + kRoomBytes * used[0] / 2, part.data(), part.size()) == 0);
      if (i == 0) std::memcpy(&buffers, &part[kNumBuffersAt], sizeof(buffers));
      frame.insert(frame.end(), part.begin(), part.end());
    }
    // What the host wrote where the number of buffers is, nobody knows any more.
    frame[kNumBuffersAt] = static_cast<uint8_t>(frame[kNumBuffersAt - 1] + 1);
    frame[kNumBuffersAt + 1] = static_cast<uint8_t>(frame[kNumBuffersAt - 1] + 2);
    by_host_.HoldsNext(frame);
    return true;
  }

  void Send() {
    const vmm::NetWait wait = tx_.Round(!Rarely(&input_));
    HOLDS(tx_.queue().queue->in_flight_count() == 0);
    if (input_.ConsumeBool()) static_cast<void>(tx_.EnableKicks());
    if (corrupt_) return;
    for (uint32_t used[2]; tx_ring_.TakeUsed(used);) {
      HOLDS(used[1] == 0 && used[0] % 2 == 0 && frames_out_[used[0] / 2]);
      frames_out_[used[0] / 2] = false;
    }
    HOLDS(wait != vmm::NetWait::kDriver || frames_out_ == decltype(frames_out_){});
  }

  void TakeFrames() {
    static Bytes frame(1 << 17);
    ssize_t got = 0;
    while ((got = recv(host_.get(), frame.data(), frame.size(), 0)) > 0) {
      ++taken_;
      if (!corrupt_) by_guest_.HoldsNext(Bytes(frame.begin(), frame.begin() + got));
    }
    HOLDS(taken_ == port_->tx_frames.load());
  }

  FuzzedDataProvider& input_;
  const bool event_idx_;
  const std::shared_ptr<vmm::GuestMemory> memory_ = ZeroedRam();
  const std::shared_ptr<vmm::EventFd> event_ = Event();
  const std::shared_ptr<vmm::NetPort> port_ = std::make_shared<vmm::NetPort>();
  Ring rx_ring_{memory_, 0x100, kSize, event_idx_}, tx_ring_{memory_, 0x400, kSize, event_idx_};
  vmm::NetRx rx_;
  vmm::NetTx tx_;
  vmm::Fd host_, tap_;
  std::array<bool, kChains> rooms_out_{}, frames_out_{};
  Sent by_host_, by_guest_;
  uint64_t taken_ = 0;
  uint32_t seed_ = 0;
  bool corrupt_ = false;

  static const std::shared_ptr<vmm::EventFd>& Event() {
    static const auto event = std::make_shared<vmm::EventFd>();
    return event;
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  vmm::NetRxOptions options;
  options.merge = input.ConsumeBool();
  options.frame_bytes_max = input.ConsumeIntegralInRange<uint32_t>(64, kFrameBytesMax);
  options.patience_ns = input.ConsumeBool() ? 0 : kPatienceNs;
  auto harness = std::make_unique<Harness>(&input, options);
  harness->Run();
  return 0;
}
