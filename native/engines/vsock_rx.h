#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "../virtio/engine_queue.h"
#include "vsock_connection.h"
#include "vsock_packet.h"

namespace vmm {

/// Fills the queue on which the guest receives packets. VIRTIO 1.2 §5.10.6.
class VsockRx {
 public:
  /// The queue of the guest that is called `guest_cid`.
  VsockRx(EngineQueue queue, uint64_t guest_cid)
      : queue_(std::move(queue)), guest_cid_(guest_cid) {}

  const EngineQueue& queue() const { return queue_; }

  /// A packet without payload. False if the driver has offered no buffer for it.
  [[nodiscard]] bool Send(const VsockHeader& header);
  /// What the host has for the guest, if anything, in one packet or several. False likewise.
  [[nodiscard]] bool SendPayload(VsockConnection* connection);
  /// Has the driver see all that was sent.
  void Show();

 private:
  /// So many buffers are filled by one read. Linux has them of 4 KiB.
  static constexpr size_t kChainsMax = 24;
  struct Room {
    VsockHeaderPieces header;
    uint32_t payload_bytes = 0;
  };

  void Clear();
  [[nodiscard]] bool TakeChain(uint32_t payload_bytes_max);
  void Fill(size_t index, VsockHeader header);

  const EngineQueue queue_;
  const uint64_t guest_cid_;
  Chain chain_;
  // The chains that are being filled, and the room for payload in all of them:
  std::array<uint16_t, kChainsMax> heads_{};
  std::array<Room, kChainsMax> rooms_;
  size_t count_ = 0;
  std::vector<iovec> payload_;
  uint32_t payload_bytes_ = 0;
  uint32_t unseen_bytes_ = 0;  // that the driver has not been shown yet
};

}  // namespace vmm
