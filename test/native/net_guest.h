#pragma once
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../../native/base/fd.h"
#include "../../native/virtio/engine_queue.h"
#include "driver.h"

using Bytes = std::vector<uint8_t>;

constexpr size_t kHeaderBytes = 12;
constexpr int kTimeoutMs = 10'000;

/// Bytes that tell where they should be, after a header of zeros.
inline Bytes Frame(size_t bytes, uint8_t seed = 1) {
  Bytes frame(kHeaderBytes + bytes);
  for (size_t i = 0; i < bytes; ++i)
    frame[kHeaderBytes + i] = static_cast<uint8_t>(seed + i + i / 251);
  return frame;
}

/// The guest's side of one queue, on the test's thread.
class NetRing {
 public:
  /// The three parts lie from `gpa` on, in 32 KiB that hold them for any `size` up to 1024.
  NetRing(std::shared_ptr<vmm::GuestMemory> memory, uint64_t gpa, uint16_t size, bool event_idx,
          const std::shared_ptr<const vmm::DmaSpace>& space)
      : driver_(memory, {size, gpa, gpa + 0x4000, gpa + 0x5000, false, event_idx}),
        queue_(std::make_shared<vmm::Queue>(memory, driver_.options(), space)) {}

  vmm::EngineQueue queue() {
    return {queue_, kick_, irq_, [this](const char* fault) { fault_.store(fault); }};
  }
  const vmm::Queue& device() const { return *queue_; }
  const vmm::EventFd& kick() const { return *kick_; }
  Driver& driver() { return driver_; }
  std::string fault() const { return fault_.load(); }
  void AwaitFault() {
    while (fault_.load()[0] == '\0') usleep(1000);
  }

  void Offer(uint16_t head, const std::vector<Buffer>& buffers) {
    for (size_t i = 0; i < buffers.size(); ++i) {
      const bool last = i + 1 == buffers.size();
      const int flags =
          (buffers[i].writable ? vmm::kDescriptorWrite : 0) | (last ? 0 : vmm::kDescriptorNext);
      driver_.Describe(static_cast<uint16_t>(head + i),
                       {buffers[i].gpa, buffers[i].len, static_cast<uint16_t>(flags),
                        static_cast<uint16_t>(head + i + 1)});
    }
    driver_.Offer(head);
  }
  /// As the device wants it.
  void Kick() {
    if (!driver_.WantsKick()) return;
    ++kicks;
    kick_->Signal();
  }
  /// What the device gives back next. Ends the test if nothing comes.
  Used Await() {
    Used used{};
    while (!driver_.TakeUsed(&used)) {
      if (driver_.EnableInterrupts()) continue;
      pollfd irq{irq_->get(), POLLIN, 0};
      CHECK(poll(&irq, 1, kTimeoutMs) == 1);
      irq_->Take();
    }
    return used;
  }
  bool TakeUsed(Used* used) { return driver_.TakeUsed(used); }

  uint32_t kicks = 0;

 private:
  Driver driver_;
  const std::shared_ptr<vmm::Queue> queue_;
  const std::shared_ptr<vmm::EventFd> kick_ = std::make_shared<vmm::EventFd>();
  const std::shared_ptr<vmm::EventFd> irq_ = std::make_shared<vmm::EventFd>();
  std::atomic<const char*> fault_ = "";
};

/// A queue pair, and RAM from kRx and kTx on for what is in it.
class NetGuest {
 public:
  static constexpr uint64_t kRx = 0x20000, kTx = 0x90000;
  static constexpr uint16_t kSize = 256;

  explicit NetGuest(bool event_idx = true, uint16_t size = kSize,
                    const std::shared_ptr<const vmm::DmaSpace>& space = nullptr)
      : rx(memory_, 0x8000, size, event_idx, space), tx(memory_, 0x10000, size, event_idx, space) {}

  Bytes Read(uint64_t gpa, size_t bytes) const {
    Bytes out(bytes);
    CHECK(memory_->CopyOut(gpa, out.data(), bytes) == 0);
    return out;
  }
  void Write(uint64_t gpa, const Bytes& bytes) const {
    CHECK(memory_->CopyIn(gpa, bytes.data(), bytes.size()) == 0);
  }

  /// Room for a frame at `gpa`.
  void OfferRoom(uint16_t head, uint64_t gpa, uint32_t bytes) {
    rx.Offer(head, {{gpa, bytes, true}});
    rx.Kick();
  }
  /// Offers a frame in one buffer, and kicks.
  void Send(uint16_t head, const Bytes& frame, uint64_t gpa = kTx) {
    Write(gpa, frame);
    tx.Offer(head, {{gpa, static_cast<uint32_t>(frame.size())}});
    tx.Kick();
  }

 private:
  const std::shared_ptr<vmm::GuestMemory> memory_ = MakeRam();

 public:
  NetRing rx, tx;
};

/// What stands in for a tap: it takes and gives frames, with the header, as one does.
class FakeTap {
 public:
  FakeTap() {
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    ours_ = vmm::Fd(fds[0]);
    theirs_ = vmm::Fd(fds[1]);
  }
  int fd() const { return theirs_.get(); }
  void Put(const Bytes& frame) const {
    CHECK(send(ours_.get(), frame.data(), frame.size(), 0) == static_cast<ssize_t>(frame.size()));
  }
  /// The same, if it may have to wait for room.
  void PutWhenItCan(const Bytes& frame) const {
    while (send(ours_.get(), frame.data(), frame.size(), 0) < 0) {
      CHECK(errno == EAGAIN);
      pollfd poll_fd{ours_.get(), POLLOUT, 0};
      CHECK(poll(&poll_fd, 1, kTimeoutMs) == 1);
    }
  }
  bool HasFrame(int timeout_ms = 0) const {
    pollfd poll_fd{ours_.get(), POLLIN, 0};
    return poll(&poll_fd, 1, timeout_ms) == 1;
  }
  Bytes Get() const {
    CHECK(HasFrame(kTimeoutMs));
    Bytes frame(1 << 17);
    const ssize_t got = recv(ours_.get(), frame.data(), frame.size(), 0);
    CHECK(got >= 0);
    frame.resize(static_cast<size_t>(got));
    return frame;
  }
  /// As many as it holds.
  void Fill() const {
    const Bytes frame = Frame(1);
    while (send(theirs_.get(), frame.data(), frame.size(), 0) > 0) continue;
    CHECK(errno == EAGAIN);
  }
  void Drop() { ours_ = vmm::Fd(); }

 private:
  vmm::Fd ours_, theirs_;
};
