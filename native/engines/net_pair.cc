#include "net_pair.h"

#include <poll.h>

#include <algorithm>
#include <span>
#include <utility>

namespace vmm {
namespace {

/// With more than so many at a time, batches are what makes it fast.
constexpr int kQuickMax = 4;

constexpr short kTapErrors = POLLERR | POLLHUP | POLLNVAL;

/// What a direction begins with that has a queue, or has none.
NetWait Begin(bool there) { return there ? NetWait::kNothing : NetWait::kBroken; }

/// poll(2) until a time of the steady clock, if there is one.
int PollUntil(std::span<pollfd> fds, std::optional<int64_t> end_ns) {
  timespec left{};
  if (end_ns.has_value()) left = ToTimespec(std::max<int64_t>(0, *end_ns - SteadyNowNs()));
  return ppoll(fds.data(), fds.size(), end_ns.has_value() ? &left : nullptr, nullptr);
}

short Poll(int fd, short events) {
  pollfd poll_fd{fd, events, 0};
  return poll(&poll_fd, 1, 0) == 1 ? poll_fd.revents : short{0};
}

}  // namespace

NetPair::NetPair(std::optional<EngineQueue> rx, std::optional<EngineQueue> tx,
                 std::shared_ptr<NetPort> port, const NetRxOptions& options,
                 std::shared_ptr<RateLimiter> tx_limiter)
    : port_(std::move(port)),
      wake_(rx.has_value() ? rx->kick : tx->kick),
      rx_wait_(Begin(rx.has_value())),
      tx_wait_(Begin(tx.has_value())) {
  if (rx.has_value()) rx_.emplace(std::move(*rx), port_, options);
  if (tx.has_value()) tx_.emplace(std::move(*tx), port_, std::move(tx_limiter));
}

void NetPair::Serve(const std::atomic<bool>& leave) {
  while (!leave.load() && !IsOver()) {
    HearIommu();
    ServeRound();
    if (IsBusy())
      Advance(LookAtTap());
    else if (!LookAWhile(leave))
      Sleep();
  }
  if (rx_.has_value()) rx_->Rest();
  if (tx_.has_value()) tx_->queue().queue->LetGo();
}

bool NetPair::IsOver() const {
  return rx_wait_ == NetWait::kBroken && tx_wait_ == NetWait::kBroken;
}

bool NetPair::IsBusy() const {
  return tx_wait_ == NetWait::kNothing || (rx_wait_ == NetWait::kNothing && HasTap());
}

/// What it unmaps is not to be held by who waits, or does nothing any more.
void NetPair::HearIommu() {
  if (rx_.has_value() && rx_->queue().queue->IsStale()) {
    if (HasTap() && rx_wait_ != NetWait::kBroken)
      rx_wait_ = NetWait::kNothing;
    else
      rx_->Rest();
  }
  if (tx_wait_ != NetWait::kBroken && tx_->queue().queue->IsStale()) tx_wait_ = NetWait::kNothing;
}

/// Neither direction moves more than a round before it is the other's turn.
void NetPair::ServeRound() {
  frames_ = 0;
  if (rx_wait_ == NetWait::kNothing && HasTap()) {
    rx_wait_ = rx_->Round();
    frames_ += rx_->frames();
  }
  if (tx_wait_ == NetWait::kNothing) {
    tx_wait_ = tx_->Round(HasTap());
    frames_ += tx_->frames();
  }
}

/// The next frame may come soon, if the last came a few at a time. True if it has, or it is time to
/// leave.
bool NetPair::LookAWhile(const std::atomic<bool>& leave) {
  if (frames_ == 0 || frames_ > kQuickMax) return false;
  frames_ = 0;
  if (!busy_poll_.on()) return busy_poll_.Skip(), false;
  return busy_poll_.Try([&] {
    Advance(LookAtTap());
    return IsBusy() || leave.load();
  });
}

void NetPair::Sleep() {
  bool more = rx_wait_ == NetWait::kDriver && rx_->EnableKicks();
  more |= tx_wait_ == NetWait::kDriver && tx_->EnableKicks();
  if (more) return Advance(0);
  pollfd fds[] = {{HasTap() ? port_->tap : -1, TapEvents(), 0},
                  {rx_ ? rx_->queue().kick->get() : -1, POLLIN, 0},
                  {tx_ ? tx_->queue().kick->get() : -1, POLLIN, 0}};
  if (PollUntil(fds, NextTimeNs()) < 0) return;
  if (fds[1].revents != 0) rx_->queue().kick->Take();
  if (fds[2].revents != 0) tx_->queue().kick->Take();
  Advance(fds[0].revents);
}

/// When the first of the directions that wait for their turns has it, or has waited for its driver
/// long enough.
std::optional<int64_t> NetPair::NextTimeNs() const {
  std::optional<int64_t> next;
  if (rx_wait_ == NetWait::kDriver) next = rx_->aside_until_ns();
  if (rx_wait_ == NetWait::kTurn) next = rx_->turn().at_ns();
  if (tx_wait_ == NetWait::kTurn)
    next = std::min(next.value_or(tx_->turn().at_ns()), tx_->turn().at_ns());
  return next;
}

/// What of the tap somebody waits for. A direction that waits for its driver takes nothing from it,
/// or each frame that the guest has no room for would wake us.
short NetPair::TapEvents() const {
  return static_cast<short>((rx_wait_ == NetWait::kTap ? POLLIN : 0) |
                            (tx_wait_ == NetWait::kTap ? POLLOUT : 0));
}

short NetPair::LookAtTap() const {
  const short events = TapEvents();
  return events != 0 && HasTap() ? Poll(port_->tap, events) : short{0};
}

/// Has each direction go on whose wait is over.
void NetPair::Advance(short tap_events) {
  if ((tap_events & kTapErrors) != 0) LoseTap();
  if ((rx_wait_ == NetWait::kTurn && rx_->turn().has_come()) ||
      (rx_wait_ == NetWait::kTap && (tap_events & POLLIN) != 0) ||
      (rx_wait_ == NetWait::kDriver && (rx_->HasChains() || rx_->HasWaited())))
    rx_wait_ = NetWait::kNothing;
  if ((tx_wait_ == NetWait::kTurn && tx_->turn().has_come()) ||
      (tx_wait_ == NetWait::kTap && ((tap_events & POLLOUT) != 0 || !HasTap())) ||
      (tx_wait_ == NetWait::kDriver && tx_->HasChains()))
    tx_wait_ = NetWait::kNothing;
}

/// Nothing comes any more, and what the guest sends is dropped.
void NetPair::LoseTap() {
  gone_ = true;
  if (port_->on_tap_gone) port_->on_tap_gone();
}

}  // namespace vmm
