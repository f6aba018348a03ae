#pragma once
#include <cstdint>

namespace vmm {

/// Who may send how much on one connection. VIRTIO 1.2 §5.10.6.3. Counts are of bytes since the
/// connection was made, and wrap around.
class VsockCredit {
 public:
  /// `window_bytes`: how many of the guest's bytes we take before the host has taken any.
  explicit VsockCredit(uint32_t window_bytes) : window_bytes_(window_bytes) {}

  uint32_t window_bytes() const { return window_bytes_; }
  /// What the guest may still send.
  uint32_t room_bytes() const { return window_bytes_ - (received_ - forwarded_); }
  void Receive(uint32_t bytes) { received_ += bytes; }
  /// The host has taken some.
  void Forward(uint32_t bytes) { forwarded_ += bytes; }
  /// It takes none any more.
  void ForwardAll() { forwarded_ = received_; }

  /// How far the host is, to be told to the guest now.
  uint32_t Tell() { return told_ = forwarded_; }
  /// The guest knows of so little room that it may soon wait for more.
  bool news_due() const { return forwarded_ - told_ >= window_bytes_ / 4; }

  /// What the guest says of itself with every packet.
  void TakePeer(uint32_t buf_alloc, uint32_t fwd_cnt) {
    peer_window_bytes_ = buf_alloc;
    peer_forwarded_ = fwd_cnt;
  }
  /// What we may still send. A guest that says it has taken more than we sent gets nothing.
  uint32_t peer_room_bytes() const {
    const uint32_t on_the_way = sent_ - peer_forwarded_;
    return on_the_way < peer_window_bytes_ ? peer_window_bytes_ - on_the_way : 0;
  }
  void Send(uint32_t bytes) { sent_ += bytes; }

 private:
  uint32_t window_bytes_;
  uint32_t received_ = 0;
  uint32_t forwarded_ = 0;
  uint32_t told_ = 0;
  uint32_t sent_ = 0;
  uint32_t peer_window_bytes_ = 0;
  uint32_t peer_forwarded_ = 0;
};

}  // namespace vmm
