#include "line.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <utility>

#include "../base/assert.h"
#include "../sys/pty.h"
#include "../sys/unix_listener.h"

namespace vmm {
namespace {

/// How soon something is tried again that nothing tells of: whether anybody has a pty without
/// inotify, and whether there are descriptors for a client again.
constexpr int kRetryMs = 500;

}  // namespace

Status Line::OfPty(const std::string& thread_name, std::shared_ptr<Line>* line) {
  Fd wake(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!wake.ok()) return {errno, "eventfd"};
  Pty pty;
  if (const Status status = OpenPty(&pty); !status.ok()) return status;
  line->reset(new Line(thread_name, pty.path, std::move(wake), std::move(pty.opened),
                       std::move(pty.master)));
  return {};
}

Status Line::OfSocket(const std::string& thread_name, const std::string& socket_path,
                      std::shared_ptr<Line>* line) {
  Fd wake(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!wake.ok()) return {errno, "eventfd"};
  Fd listener;
  if (const Status status = ListenUnix(socket_path, &listener); !status.ok()) return status;
  line->reset(new Line(thread_name, socket_path, std::move(wake), std::move(listener), Fd()));
  return {};
}

Line::Line(const std::string& thread_name, std::string path, Fd wake, Fd arrivals, Fd peer)
    : path_(std::move(path)),
      is_pty_(peer.ok()),
      wake_(std::move(wake)),
      arrivals_(std::move(arrivals)),
      peer_(std::move(peer)),
      hung_up_(is_pty_),
      thread_(thread_name, [this] { Run(); }) {}

void Line::Close() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  Wake();
  thread_.Join();
  arrivals_ = Fd();
  peer_ = Fd();
}

void Line::Put(const uint8_t* bytes, size_t count) {
  bool wake;
  {
    const std::lock_guard lock(mutex_);
    ring_.Put(bytes, count);
    wake = std::exchange(sleeping_, false);
  }
  if (wake) Wake();
}

bool Line::Flush(uint32_t timeout_ms) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                           [this] { return !reachable_ || (ring_.empty() && !sending_); });
}

void Line::Attach(Input input) {
  {
    const std::lock_guard lock(input_mutex_);
    input_ = std::move(input);
  }
  Wake();
}

void Line::Wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t wrote = write(wake_.get(), &one, sizeof one);
}

void Line::Run() {
  for (;;) {
    Transmit();
    Receive();
    if (!Settle()) return;
    Await();
  }
}

void Line::Transmit() {
  while (peer_.ok() && !hung_up_ && TakeChunk()) {
    const uint8_t* rest = outbound_.data() + outbound_done_;
    const ssize_t wrote = write(peer_.get(), rest, outbound_.size() - outbound_done_);
    if (wrote > 0) {
      outbound_done_ += static_cast<size_t>(wrote);
    } else if (errno != EINTR) {
      hung_up_ = errno != EAGAIN;
      return;
    }
  }
}

/// Makes sure that there is something in `outbound_`; false if there is no output.
bool Line::TakeChunk() {
  if (outbound_done_ < outbound_.size()) return true;
  const std::lock_guard lock(mutex_);
  ring_.Take(kChunkBytes, &outbound_);
  outbound_done_ = 0;
  return !outbound_.empty();
}

/// Reads once, so that output has its turn; but to the end if the peer has left, for poll(2) will
/// not come back to what it left unread.
void Line::Receive() {
  while (peer_.ok() && DeliverInput()) {
    const ssize_t got = read(peer_.get(), inbound_.data(), inbound_.size());
    if (got > 0) {
      inbound_count_ = static_cast<size_t>(got);
      inbound_done_ = 0;
      if (!DeliverInput() || !hung_up_) return;
      continue;
    }
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (is_pty_) {
      hung_up_ = true;
    } else if (got == 0 && !hung_up_) {
      input_ended_ = true;  // it may still want to read
    } else {
      peer_ = Fd();
      hung_up_ = input_ended_ = false;
    }
    return;
  }
}

/// True if nothing is left to deliver.
bool Line::DeliverInput() {
  if (inbound_done_ == inbound_count_) return true;
  const std::lock_guard lock(input_mutex_);
  if (input_)
    inbound_done_ += input_(inbound_.data() + inbound_done_, inbound_count_ - inbound_done_);
  return inbound_done_ == inbound_count_;
}

/// Says how things stand before the thread sleeps. False when it is time to end.
bool Line::Settle() {
  const std::lock_guard lock(mutex_);
  reachable_ = peer_.ok() && !hung_up_;
  sending_ = outbound_done_ < outbound_.size();
  sleeping_ = reachable_ && !sending_;
  // Output that came since Transmit looked.
  if (sleeping_ && !ring_.empty()) {
    sleeping_ = false;
    Wake();
  }
  changed_.notify_all();
  return !stop_;
}

void Line::Await() {
  const bool has_input = inbound_done_ < inbound_count_;
  const bool has_output = outbound_done_ < outbound_.size();
  const int events = (has_input || input_ended_ ? 0 : POLLIN) | (has_output ? POLLOUT : 0);
  std::array<pollfd, 3> fds{{{wake_.get(), POLLIN, 0},
                             {retry_ ? -1 : arrivals_.get(), POLLIN, 0},
                             {hung_up_ ? -1 : peer_.get(), static_cast<short>(events), 0}}};
  const bool retry = retry_ || (is_pty_ && hung_up_ && !arrivals_.ok());
  const int ready = poll(fds.data(), fds.size(), retry ? kRetryMs : -1);
  VMM_ASSERT(ready >= 0 || errno == EINTR);
  if (ready < 0) return;

  uint64_t wakes;
  if (fds[0].revents != 0) {
    [[maybe_unused]] const ssize_t got = read(wake_.get(), &wakes, sizeof wakes);
  }
  const bool said_something = (fds[2].revents & POLLIN) != 0;
  if ((fds[2].revents & (POLLHUP | POLLERR)) != 0 && !said_something) hung_up_ = true;
  // Last, so that whoever comes after one has left is seen.
  if (ready == 0 || fds[1].revents != 0) Arrive();
}

void Line::Arrive() {
  if (!is_pty_) {
    Fd client(accept4(arrivals_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    retry_ = !client.ok() && errno != EAGAIN && errno != ECONNABORTED && errno != EINTR;
    if (!client.ok()) return;
    peer_ = std::move(client);
    hung_up_ = input_ended_ = false;
    return;
  }
  std::array<uint8_t, 4096> events;
  while (arrivals_.ok() && read(arrivals_.get(), events.data(), events.size()) > 0) continue;
  hung_up_ = HasHungUp();
}

bool Line::HasHungUp() const {
  pollfd peer{peer_.get(), 0, 0};
  return poll(&peer, 1, 0) > 0;
}

}  // namespace vmm
