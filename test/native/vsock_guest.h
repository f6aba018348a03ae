#pragma once
#include <poll.h>

#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../../native/engines/vsock_packet.h"
#include "../../native/virtio/engine_queue.h"
#include "driver.h"

/// A packet as the guest sees it.
struct Packet {
  vmm::VsockHeader header{};
  std::string payload;
};

/// The guest's side of a vsock device, on the test's thread: it sends packets as it is told, and
/// has buffers for those that it receives, as many as the test lets it.
class VsockGuest {
 public:
  static constexpr uint32_t kCid = 3;
  static constexpr uint16_t kSize = 64;
  static constexpr uint32_t kRoomBytes = 4096;
  static constexpr uint32_t kWindowBytes = 256 << 10;
  static constexpr int kTimeoutMs = 10'000;

  explicit VsockGuest(uint16_t rooms = kSize, bool event_idx = true,
                      std::shared_ptr<const vmm::DmaSpace> space = nullptr)
      : space_(std::move(space)),
        rx_(memory_, {kSize, 0x10000, 0x11000, 0x12000, false, event_idx}),
        tx_(memory_, {kSize, 0x14000, 0x15000, 0x16000, false, event_idx}) {
    OfferRooms(rooms);
  }

  vmm::EngineQueue rx() { return Make(rx_, rx_kick_, rx_irq_); }
  vmm::EngineQueue tx() { return Make(tx_, tx_kick_, tx_irq_); }
  Driver& rx_driver() { return rx_; }
  Driver& tx_driver() { return tx_; }
  std::vector<std::string> faults;  // read it when the engine has stopped
  uint32_t window_bytes = kWindowBytes;
  uint32_t forwarded = 0;   // told with every packet
  bool takes_rooms = true;  // each buffer is offered again once it was read

  void OfferRooms(uint16_t count) {
    for (; count > 0; --count) OfferRoom(next_room_++ % kSize);
    KickRx();
  }

  /// A packet that a driver would send, but for what `change` does to it. Taken when it returns.
  void Send(uint16_t op, uint32_t guest_port, uint32_t host_port, const std::string& payload = "",
            const std::function<void(vmm::VsockHeader*)>& change = {}) {
    Post(op, guest_port, host_port, payload, change);
    AwaitTaken();
  }
  /// The same without waiting for that; one at a time.
  void Post(uint16_t op, uint32_t guest_port, uint32_t host_port, const std::string& payload = "",
            const std::function<void(vmm::VsockHeader*)>& change = {}) {
    vmm::VsockHeader header{};
    header.src_cid = kCid;
    header.dst_cid = vmm::kVsockHostCid;
    header.src_port = guest_port;
    header.dst_port = host_port;
    header.len = static_cast<uint32_t>(payload.size());
    header.type = VIRTIO_VSOCK_TYPE_STREAM;
    header.op = op;
    header.buf_alloc = window_bytes;
    header.fwd_cnt = forwarded;
    if (change) change(&header);
    std::memcpy(Bytes(kTxGpa), &header, sizeof(header));
    std::memcpy(Bytes(kTxGpa + sizeof(header)), payload.data(), payload.size());
    const auto length = static_cast<uint32_t>(payload.size());
    if (length > 0)
      tx_.DescribeChain(0, {{kTxGpa, sizeof(header)}, {kTxGpa + sizeof(header), length}});
    else
      tx_.DescribeChain(0, {{kTxGpa, sizeof(header)}});
    PostChain();
  }
  /// The chain at head 0 of the tx queue, from beginning to end.
  void SendChain() {
    PostChain();
    AwaitTaken();
  }
  void AwaitTaken() {
    Used used{};
    CHECK(Await(&tx_, *tx_irq_, &used, kTimeoutMs) && used.head == 0 && used.written == 0);
  }
  void PostChain() {
    tx_.Offer(0);
    KickTx();
  }
  void KickTx() {
    if (tx_.WantsKick()) tx_kick_->Signal();
  }
  /// As the IOMMU does, whether a driver would or not.
  void KickAll() {
    rx_kick_->Signal();
    tx_kick_->Signal();
  }
  void KickRx() {
    if (rx_.WantsKick()) rx_kick_->Signal();
  }

  /// The next packet that came in. None if none comes in time.
  std::optional<Packet> Receive(int timeout_ms = kTimeoutMs) {
    Used used{};
    if (!Await(&rx_, *rx_irq_, &used, timeout_ms)) return std::nullopt;
    Packet packet;
    if (used.written < sizeof(packet.header)) return packet;
    const uint8_t* from = Bytes(RoomGpa(static_cast<uint16_t>(used.head)));
    std::memcpy(&packet.header, from, sizeof(packet.header));
    CHECK(used.written == sizeof(packet.header) + packet.header.len);
    CHECK(packet.header.dst_cid == kCid);
    packet.payload.assign(reinterpret_cast<const char*>(from) + sizeof(packet.header),
                          packet.header.len);
    if (takes_rooms) {
      OfferRoom(static_cast<uint16_t>(used.head));
      KickRx();
    }
    return packet;
  }
  /// The same; it must be this operation, with these ports.
  Packet Expect(uint16_t op, uint32_t guest_port, uint32_t host_port) {
    std::optional<Packet> packet = Receive();
    CHECK(packet.has_value());
    if (packet->header.op != op)
      std::fprintf(stderr, "operation %u instead of %u\n", packet->header.op, op);
    CHECK(packet->header.op == op);
    CHECK(packet->header.src_port == host_port && packet->header.dst_port == guest_port);
    return *packet;
  }
  bool ReceivesNothing() { return !Receive(50).has_value(); }

 private:
  static constexpr uint64_t kRoomsGpa = 0x40000, kTxGpa = 0x90000;
  static uint64_t RoomGpa(uint16_t head) { return kRoomsGpa + uint64_t{kRoomBytes} * head; }

  uint8_t* Bytes(uint64_t gpa) const { return rx_.At<uint8_t>(gpa); }
  vmm::EngineQueue Make(Driver& driver, const std::shared_ptr<vmm::EventFd>& kick,
                        const std::shared_ptr<vmm::EventFd>& irq) {
    return {std::make_shared<vmm::Queue>(memory_, driver.options(), space_), kick, irq,
            [this](const char* fault) { faults.emplace_back(fault); }};
  }
  void OfferRoom(uint16_t head) {
    rx_.DescribeChain(head, {{RoomGpa(head), kRoomBytes, true}});
    rx_.Offer(head);
  }
  static bool Await(Driver* driver, const vmm::EventFd& irq, Used* used, int timeout_ms) {
    while (!driver->TakeUsed(used)) {
      if (driver->EnableInterrupts()) continue;
      pollfd signalled{irq.get(), POLLIN, 0};
      if (poll(&signalled, 1, timeout_ms) != 1) return false;
      irq.Take();
    }
    return true;
  }

  const std::shared_ptr<vmm::GuestMemory> memory_ = MakeRam();
  const std::shared_ptr<const vmm::DmaSpace> space_;
  Driver rx_, tx_;
  const std::shared_ptr<vmm::EventFd> rx_kick_ = std::make_shared<vmm::EventFd>();
  const std::shared_ptr<vmm::EventFd> rx_irq_ = std::make_shared<vmm::EventFd>();
  const std::shared_ptr<vmm::EventFd> tx_kick_ = std::make_shared<vmm::EventFd>();
  const std::shared_ptr<vmm::EventFd> tx_irq_ = std::make_shared<vmm::EventFd>();
  uint16_t next_room_ = 0;
};
