#pragma once
#include <cstdint>
#include <list>
#include <utility>

#include "../base/fd.h"
#include "vsock_credit.h"
#include "vsock_outbox.h"
#include "vsock_packet.h"
#include "vsock_socket.h"

namespace vmm {

/// One stream between a port of the guest and a Unix socket of the host. It does the I/O on the
/// socket and says what the guest is to be told; who sends that, and when, is the caller's. Belongs
/// to one thread, and never waits.
class VsockConnection {
 public:
  using List = std::list<VsockConnection>;

  enum class Phase : uint8_t {
    kGreeting,   // a client has not said yet which port it wants
    kRequested,  // the guest has not answered yet
    kOpen,
    kEnding,    // the host is gone, and the guest knows: it is to agree
    kAborted,   // the host is gone; the guest is to be sent a reset
    kDraining,  // the guest is gone; the host has not taken all
  };

  /// What becomes of it after a packet of the guest.
  enum class Verdict : uint8_t {
    kStays,
    kBroken,  // it goes, with a reset
    kAgreed,  // the guest is done, and waits for a reset
    kGone,    // the guest has reset it
  };

  VsockConnection(Fd socket, Phase phase, uint32_t window_bytes);

  int fd() const { return socket_.get(); }
  Phase phase() const { return phase_; }
  uint32_t guest_port() const { return guest_port_; }
  uint32_t host_port() const { return host_port_; }
  uint32_t window_bytes() const { return credit_.window_bytes(); }

  VsockGreeting::Result ReadGreeting(uint32_t* port) { return greeting_.Read(fd(), port); }
  /// A client has said which port it wants; the guest is to be asked.
  void Request(uint32_t guest_port, uint32_t host_port);
  /// The host has taken the guest's request, whose header it was.
  void Accept(const VsockHeader& request);

  [[nodiscard]] Verdict OnPacket(const VsockPacket& packet);
  /// Events of epoll(7) that it waits for now, of EPOLLIN and EPOLLOUT. It hears of others in vain.
  uint32_t awaited_events() const;
  /// `events` of epoll(7), edge-triggered.
  void OnSocket(uint32_t events);
  void Close() { socket_ = Fd(); }
  /// The guest is gone: what it has sent is still for the host.
  void Drain();
  /// Nothing is left to do for anybody.
  bool over() const;
  /// The host had no memory for what it was sent. No event tells when it has: try
  /// OnSocket(EPOLLOUT) again after a while.
  bool lacks_memory() const { return lacks_memory_ && socket_.ok() && !outbox_.empty(); }

  /// Whether there is something for the guest: a packet without payload, or payload.
  bool has_news() const { return pending_ != 0 || can_read(); }
  /// The packet without payload to be sent first, before any payload; OP_INVALID if there is none.
  uint16_t next_op() const;
  void OnTold(uint16_t op) { pending_ &= static_cast<uint16_t>(~(1U << op)); }
  /// Of a packet that is sent now; `len` and the guest's CID are the caller's.
  VsockHeader Header(uint16_t op);
  uint32_t read_bytes_max() const;
  /// How much is likely to be there: guessed from what was there the last time.
  uint32_t read_bytes_likely() const { return likely_bytes_; }
  /// From the socket, at most as much as may be sent. 0 if there is none now.
  uint32_t Read(iovec* pieces, size_t count);

  /// Where its owner has it.
  List* in = nullptr;
  List::iterator self;
  int64_t deadline_ms = 0;      // of the greeting
  uint32_t watched_events = 0;  // of EPOLLIN and EPOLLOUT

 private:
  bool may_read() const;
  bool can_read() const;
  void Tell(uint16_t op) { pending_ |= static_cast<uint16_t>(1U << op); }
  bool Tells(uint16_t op) const { return (pending_ & (1U << op)) != 0; }
  [[nodiscard]] Verdict OnResponse();
  [[nodiscard]] Verdict OnPayload(const VsockPacket& packet);
  [[nodiscard]] Verdict OnShutdown(uint32_t flags);
  void Write(const Segments& payload);
  [[nodiscard]] ssize_t Push(const iovec* pieces, size_t count);
  void Flush();
  void EndHost(uint32_t ways);
  void Abort();
  void TellNews();

  Fd socket_;
  Phase phase_;
  bool readable_ = true;       // there may be bytes, or the end
  bool hung_up_ = false;       // the host's side sends no more
  bool host_gone_ = false;     // and takes no more
  bool asked_ = false;         // for credit, since there was some
  bool lacks_memory_ = false;  // as of the last write
  uint16_t pending_ = 0;       // bits of operations that the guest is to be sent
  uint32_t host_over_ = 0;     // kVsockNo…: what the host does no more
  uint32_t guest_over_ = 0;    // and the guest
  uint32_t guest_port_ = 0;
  uint32_t host_port_ = 0;
  uint32_t likely_bytes_ = 1;
  VsockCredit credit_;
  VsockOutbox outbox_;  // for the host; together with what the socket took, what the guest sent
  VsockGreeting greeting_;
};

}  // namespace vmm
