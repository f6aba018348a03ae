#pragma once
#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../base/fd.h"
#include "../base/status.h"
#include "../base/thread.h"
#include "byte_sink.h"
#include "ring.h"

namespace vmm {

/// What a serial port or a console is plugged into from outside: a pty, or a socket that takes one
/// client at a time. It outlives the port: a VM that boots again is plugged into the same line.
///
/// Output that nobody is there for stays in the ring, the newest 64 KiB of it, until somebody is.
/// One thread moves bytes in both directions; it never waits but in poll(2).
class Line : public ByteSink {
 public:
  /// Takes input, and returns how many bytes of it. If not all, Resume follows.
  using Input = std::function<size_t(const uint8_t* bytes, size_t count)>;

  [[nodiscard]] static Status OfPty(const std::string& thread_name, std::shared_ptr<Line>* line);
  /// Listens at `socket_path`, which it makes and leaves behind. A new client takes the place of
  /// the one before it.
  [[nodiscard]] static Status OfSocket(const std::string& thread_name,
                                       const std::string& socket_path, std::shared_ptr<Line>* line);
  ~Line() override { Close(); }

  void Put(const uint8_t* bytes, size_t count) override;
  /// True at once when nobody is there.
  bool Flush(uint32_t timeout_ms) override;
  /// Any thread. From now on input goes there; what came before and was not taken goes there first.
  /// Without a target it waits for the next.
  void Attach(Input input);
  /// Any thread. The input's taker has room again.
  void Resume() { Wake(); }
  /// Ends the thread and gives up the descriptors. Idempotent.
  void Close();

  /// Of the pty's slave, or of the socket.
  const std::string& path() const { return path_; }

 private:
  static constexpr size_t kChunkBytes = 4096;

  /// `arrivals` and `peer` as the members below; a pty has a peer from the start.
  Line(const std::string& thread_name, std::string path, Fd wake, Fd arrivals, Fd peer);

  void Run();
  void Transmit();
  bool TakeChunk();
  void Receive();
  bool DeliverInput();
  bool Settle();
  void Await();
  void Arrive();
  bool HasHungUp() const;
  void Wake();

  const std::string path_;
  const bool is_pty_;
  Fd wake_;      // an eventfd
  Fd arrivals_;  // readable when somebody comes: a listener, or the inotify of a pty

  // The thread's own.
  Fd peer_;               // the master of a pty, or a client
  bool hung_up_ = false;  // the peer is not polled: it would never stop saying so
  bool retry_ = false;    // nor is `arrivals_`: what it said could not be followed
  bool input_ended_ = false;
  std::vector<uint8_t> outbound_;
  size_t outbound_done_ = 0;
  std::array<uint8_t, kChunkBytes> inbound_{};
  size_t inbound_count_ = 0;
  size_t inbound_done_ = 0;

  std::mutex input_mutex_;  // held while input is handed over; before that of the chip
  Input input_;

  std::mutex mutex_;  // guards all below; after that of the chip, never held over a system call
  std::condition_variable changed_;
  Ring ring_;
  bool sending_ = false;    // `outbound_` is not empty
  bool reachable_ = false;  // somebody is there
  bool sleeping_ = false;   // the next byte must wake the thread
  bool stop_ = false;

  Thread thread_;  // last: it starts when the rest is there
};

}  // namespace vmm
