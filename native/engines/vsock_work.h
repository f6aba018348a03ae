#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>

#include "../base/event_fd.h"
#include "../base/fd.h"
#include "../virtio/engine_queue.h"
#include "engine.h"
#include "vsock_packet.h"
#include "vsock_rx.h"
#include "vsock_table.h"

namespace vmm {

/// What a vsock engine needs to know, with nothing left to decide.
struct VsockOptions {
  std::string id;  // its thread is called so
  uint32_t cid = 0;
  int listener = -1;        // where clients come in, non-blocking; borrowed for Start
  std::string socket_path;  // the guest's port 5 of the host is the socket at `${socket_path}_5`
  uint32_t greeting_timeout_ms = 0;  // for a client to say which port it wants
  /// Any thread. The host keeps connections from being made; called for the first of a burst.
  std::function<void(const std::string& message)> on_warning;
};

/// Carries packets between the queues of a device and sockets of the host. VIRTIO 1.2 §5.10.6.
class VsockWork final : public EngineWork {
 public:
  VsockWork(VsockOptions options, EngineQueue rx, EngineQueue tx);

  /// Before the thread starts. 0 or a negative errno.
  [[nodiscard]] int Open();
  void Serve(const std::atomic<bool>& leave) override;
  void Wake() override { wake_.Signal(); }
  /// What the driver has sent, what it is to be sent, and then what has happened on the host: for
  /// that it may sleep, until there is something to do.
  void Round(bool may_sleep);

 private:
  [[nodiscard]] int Watch(int operation, int fd, uint32_t events, void* whose) const;
  [[nodiscard]] int WatchSocket(int operation, VsockConnection* connection, uint32_t events) const;
  [[nodiscard]] bool ServeQueues();
  void Break();
  void LetGo();
  void TakePackets();
  void OnPacket();
  void OnRequest(const VsockHeader& header);
  void OnVerdict(VsockConnection* connection, VsockConnection::Verdict verdict);
  void Reset(const VsockHeader& header);
  void SendPackets();
  [[nodiscard]] bool SendNews(VsockConnection* connection);
  void Settle(VsockConnection* connection);

  int TimeoutMs() const;
  void Wait(int timeout_ms);
  void Retry();
  void AcceptClients();
  void Greet(Fd client);
  void OnSocket(VsockConnection* connection, uint32_t events);
  void OnGreeting(VsockConnection* connection);
  void EndGreetings();
  void Warn(const std::string& what, int rc);

  const VsockOptions options_;
  VsockRx rx_;
  const EngineQueue tx_;
  const EventFd wake_;
  Fd listener_;
  Fd epoll_;
  VsockTable table_;
  std::deque<VsockHeader> resets_;  // for packets that belong to no connection
  VsockPacket packet_;
  Chain chain_;
  bool broken_ = false;
  int64_t retry_at_ms_ = 0;  // what the host had no means for waits until then; 0 if nothing does
  int64_t quiet_until_ms_ = 0;
};

}  // namespace vmm
