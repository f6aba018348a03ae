#include "vsock_work.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "../sys/unix_listener.h"

namespace vmm {
namespace {

/// Packets that wait for a reset to be sent; a driver that sends more of them waits, too.
constexpr size_t kResetsMax = 256;

/// In one round, so that a flood of clients or of their bytes does not keep the queues waiting.
constexpr int kClientsMax = 64;
constexpr int kEventsMax = 64;

/// How long those wait that the host has no descriptor or no memory for.
constexpr int kRetryMs = 100;

/// Warnings within this time of the one that was given are of the same burst.
constexpr int64_t kBurstMs = 10'000;

constexpr uint32_t kSocketEvents = EPOLLIN | EPOLLOUT;

int64_t NowMs() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

}  // namespace

VsockWork::VsockWork(VsockOptions options, EngineQueue rx, EngineQueue tx)
    : options_(std::move(options)), rx_(std::move(rx), options_.cid), tx_(std::move(tx)) {}

int VsockWork::Open() {
  if (!wake_.ok()) return -EMFILE;
  listener_ = Fd(fcntl(options_.listener, F_DUPFD_CLOEXEC, 0));
  if (!listener_.ok()) return -errno;
  epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.ok()) return -errno;
  // These are never taken: each signal is an edge, and everything is looked at after any.
  for (const int edge : {wake_.get(), rx_.queue().kick->get(), tx_.kick->get()})
    if (const int rc = Watch(EPOLL_CTL_ADD, edge, EPOLLIN | EPOLLET, nullptr); rc < 0) return rc;
  return Watch(EPOLL_CTL_ADD, listener_.get(), EPOLLIN, this);
}

int VsockWork::Watch(int operation, int fd, uint32_t events, void* whose) const {
  epoll_event event{};
  event.events = events;
  event.data.ptr = whose;
  return epoll_ctl(epoll_.get(), operation, fd, &event) < 0 ? -errno : 0;
}

/// `events` of kSocketEvents, and the end of it.
int VsockWork::WatchSocket(int operation, VsockConnection* connection, uint32_t events) const {
  connection->watched_events = events;
  return Watch(operation, connection->fd(), events | EPOLLRDHUP | EPOLLET, connection);
}

/// Between two rounds it holds no chain, so a pause finds nothing in flight.
void VsockWork::Serve(const std::atomic<bool>& leave) {
  while (!leave.load()) Round(true);
  LetGo();
}

void VsockWork::LetGo() {
  rx_.queue().queue->LetGo();
  tx_.queue->LetGo();
}

void VsockWork::Round(bool may_sleep) {
  const bool more = ServeQueues();
  Wait(more || !may_sleep ? 0 : TimeoutMs());
}

/// True if there is more to do that nobody will tell of.
bool VsockWork::ServeQueues() {
  if (broken_) return false;
  Queue& rx = *rx_.queue().queue;
  Queue& tx = *tx_.queue;
  if (!rx.Begin() || !tx.Begin()) return Break(), false;
  rx.DisableKicks();
  tx.DisableKicks();
  TakePackets();
  SendPackets();
  if (tx.Publish()) tx_.irq->Signal();
  rx_.Show();
  if (rx.fault() != nullptr || tx.fault() != nullptr) return Break(), false;
  const bool starved = !resets_.empty() || !table_.ready().empty();
  const bool more_room = starved && rx.EnableKicks();
  const bool more_packets = resets_.size() < kResetsMax && tx.EnableKicks();
  return more_room || more_packets;
}

/// Until the device is reset, clients are turned away.
void VsockWork::Break() {
  broken_ = true;
  table_.Clear();
  resets_.clear();
  for (const EngineQueue* queue : {&rx_.queue(), &tx_})
    if (queue->queue->fault() != nullptr) queue->on_broken(queue->queue->fault());
  LetGo();
}

/// A round takes no more than the queue holds, or a driver that never stops would not let it end.
void VsockWork::TakePackets() {
  uint16_t head = 0;
  for (uint16_t round = tx_.queue->size(); round > 0 && resets_.size() < kResetsMax; --round) {
    if (tx_.queue->Take(&chain_, &head) != Queue::Taken::kChain) return;
    if (ParseVsockPacket(chain_, &packet_)) OnPacket();
    tx_.queue->Complete(head, 0);
  }
}

void VsockWork::OnPacket() {
  const VsockHeader& header = packet_.header;
  if (header.type != VIRTIO_VSOCK_TYPE_STREAM || header.src_cid != options_.cid ||
      header.dst_cid != kVsockHostCid)
    return Reset(header);
  VsockConnection* const connection = table_.Find(header.src_port, header.dst_port);
  if (connection != nullptr) return OnVerdict(connection, connection->OnPacket(packet_));
  if (header.op == VIRTIO_VSOCK_OP_REQUEST) return OnRequest(header);
  Reset(header);
}

void VsockWork::OnRequest(const VsockHeader& header) {
  Fd socket;
  int rc =
      table_.full() ? -EAGAIN : ConnectVsockPort(options_.socket_path, header.dst_port, &socket);
  if (rc == 0) {
    VsockConnection* const connection =
        table_.Add(std::move(socket), VsockConnection::Phase::kOpen);
    rc = WatchSocket(EPOLL_CTL_ADD, connection, EPOLLIN);
    if (rc == 0) {
      connection->Accept(header);
      table_.Link(connection);
      return Settle(connection);
    }
    table_.Remove(connection);
  }
  Reset(header);
  if (rc != -ECONNREFUSED && rc != -ENOENT && rc != -EAGAIN)
    Warn("Cannot connect to port " + std::to_string(header.dst_port) + " of the host", rc);
}

void VsockWork::OnVerdict(VsockConnection* connection, VsockConnection::Verdict verdict) {
  switch (verdict) {
    case VsockConnection::Verdict::kStays:
      return Settle(connection);
    case VsockConnection::Verdict::kBroken:
      Reset(packet_.header);
      return table_.Remove(connection);
    case VsockConnection::Verdict::kAgreed:
      Reset(packet_.header);
      [[fallthrough]];
    case VsockConnection::Verdict::kGone:
      table_.Unlink(*connection);
      connection->Drain();
      return Settle(connection);
  }
}

/// Two sides that reset what they don't know would never end.
void VsockWork::Reset(const VsockHeader& header) {
  if (header.op != VIRTIO_VSOCK_OP_RST) resets_.push_back(VsockReset(header));
}

/// As much as the driver has room for, and no more than a round of it.
void VsockWork::SendPackets() {
  for (; !resets_.empty(); resets_.pop_front())
    if (!rx_.Send(resets_.front())) return;
  for (uint16_t round = rx_.queue().queue->size(); round > 0 && !table_.ready().empty(); --round)
    if (!SendNews(&table_.ready().front())) return;
}

/// False if the driver has no room.
bool VsockWork::SendNews(VsockConnection* connection) {
  if (const uint16_t op = connection->next_op(); op != VIRTIO_VSOCK_OP_INVALID) {
    if (!rx_.Send(connection->Header(op))) return false;
    connection->OnTold(op);
  } else if (!rx_.SendPayload(connection)) {
    return false;
  }
  table_.Queue(connection, false);  // behind all others
  Settle(connection);
  return true;
}

/// Puts it where it belongs after something happened to it.
void VsockWork::Settle(VsockConnection* connection) {
  if (connection->over()) return table_.Remove(connection);
  table_.Queue(connection, connection->has_news());
  if (connection->lacks_memory() && retry_at_ms_ == 0) retry_at_ms_ = NowMs() + kRetryMs;
  const uint32_t watched = connection->watched_events;
  const uint32_t events = watched | connection->awaited_events();
  if (events != watched) static_cast<void>(WatchSocket(EPOLL_CTL_MOD, connection, events));
}

int VsockWork::TimeoutMs() const {
  if (retry_at_ms_ != 0) return kRetryMs;
  if (table_.greetings().empty()) return -1;
  const int64_t left_ms = table_.greetings().front().deadline_ms - NowMs();
  return static_cast<int>(std::clamp<int64_t>(left_ms, 0, INT32_MAX));
}

void VsockWork::Wait(int timeout_ms) {
  epoll_event events[kEventsMax];
  const int count = epoll_wait(epoll_.get(), events, kEventsMax, timeout_ms);
  for (int i = 0; i < count; ++i) {
    void* const whose = events[i].data.ptr;
    if (whose == this)
      AcceptClients();
    else if (whose != nullptr)
      OnSocket(static_cast<VsockConnection*>(whose), events[i].events);
  }
  if (retry_at_ms_ != 0 && NowMs() >= retry_at_ms_) Retry();
  EndGreetings();
  table_.Sweep();
}

void VsockWork::Retry() {
  retry_at_ms_ = 0;
  static_cast<void>(Watch(EPOLL_CTL_MOD, listener_.get(), EPOLLIN, this));
  for (VsockConnection* const connection : table_.Starved()) {
    connection->OnSocket(EPOLLOUT);
    Settle(connection);
  }
}

void VsockWork::AcceptClients() {
  for (int i = 0; i < kClientsMax; ++i) {
    Fd client;
    const int rc = AcceptClient(listener_, &client);
    if (rc == -EAGAIN) return;
    if (rc < 0) {
      // They stay in the queue, and would wake us up for it without end.
      static_cast<void>(Watch(EPOLL_CTL_MOD, listener_.get(), 0, this));
      retry_at_ms_ = NowMs() + kRetryMs;
      return Warn("Cannot take a client", rc);
    }
    if (!broken_) Greet(std::move(client));
  }
}

void VsockWork::Greet(Fd client) {
  auto& greetings = table_.greetings();
  if (greetings.size() >= VsockTable::kGreetingsMax) table_.Remove(&greetings.front());
  VsockConnection* const connection =
      table_.Add(std::move(client), VsockConnection::Phase::kGreeting);
  if (connection == nullptr) return;
  connection->deadline_ms = NowMs() + options_.greeting_timeout_ms;
  if (WatchSocket(EPOLL_CTL_ADD, connection, EPOLLIN) < 0) table_.Remove(connection);
}

void VsockWork::OnSocket(VsockConnection* connection, uint32_t events) {
  if (connection->fd() < 0) return;  // by another event of this round
  // What came in vain would come again: a client that writes faster than the guest reads, or reads
  // what we write.
  const uint32_t useless = events & kSocketEvents & ~connection->awaited_events();
  if (useless != 0)
    static_cast<void>(
        WatchSocket(EPOLL_CTL_MOD, connection, connection->watched_events & ~useless));
  connection->OnSocket(events);
  if (connection->phase() == VsockConnection::Phase::kGreeting) return OnGreeting(connection);
  Settle(connection);
}

void VsockWork::OnGreeting(VsockConnection* connection) {
  uint32_t port = 0;
  switch (connection->ReadGreeting(&port)) {
    case VsockGreeting::Result::kMore:
      return;
    case VsockGreeting::Result::kRefused:
      return table_.Remove(connection);
    case VsockGreeting::Result::kPort:
      connection->Request(port, table_.PickHostPort(port));
      table_.Link(connection);
      return Settle(connection);
  }
}

void VsockWork::EndGreetings() {
  auto& greetings = table_.greetings();
  if (greetings.empty()) return;
  const int64_t now_ms = NowMs();
  while (!greetings.empty() && greetings.front().deadline_ms <= now_ms)
    table_.Remove(&greetings.front());
}

void VsockWork::Warn(const std::string& what, int rc) {
  const int64_t now_ms = NowMs();
  if (now_ms < quiet_until_ms_) return;
  quiet_until_ms_ = now_ms + kBurstMs;
  options_.on_warning(what + ": " + strerrordesc_np(-rc));
}

}  // namespace vmm
