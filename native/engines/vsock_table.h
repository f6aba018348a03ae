#pragma once
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <unordered_map>
#include <utility>
#include <vector>

#include "vsock_connection.h"

namespace vmm {

/// Every connection of a device, in one of the lists that say what is to be done with it. How many
/// there are, and so what they may keep, is bounded, whatever guest and clients do.
class VsockTable {
 public:
  using List = VsockConnection::List;

  /// Of guest and host together; each has a descriptor at most.
  static constexpr size_t kConnectionsMax = 2048;
  /// Clients that have not said yet what they want: then the first of them gives way.
  static constexpr size_t kGreetingsMax = 128;
  /// So many may have this much on the way to the host. All others have less, so that all of them
  /// together keep no more than some 80 MiB, if nobody reads.
  static constexpr size_t kWideMax = 64;
  static constexpr uint32_t kWideBytes = 256 << 10;
  static constexpr uint32_t kNarrowBytes = 32 << 10;

  bool full() const { return count_ >= kConnectionsMax; }
  /// Null if it is full.
  VsockConnection* Add(Fd socket, VsockConnection::Phase phase);
  /// It stays valid until Sweep, for somebody may just be looking at it. Its socket is closed then.
  void Remove(VsockConnection* connection);
  void Sweep() { dead_.clear(); }
  void Clear();
  /// Those that the host had no memory for.
  std::vector<VsockConnection*> Starved();

  /// Null if there is none.
  VsockConnection* Find(uint32_t guest_port, uint32_t host_port) const;
  /// From now on it is found by its ports.
  void Link(VsockConnection* connection);
  void Unlink(const VsockConnection& connection);
  /// For a client that wants `guest_port`: a port of the host that no connection to it has.
  uint32_t PickHostPort(uint32_t guest_port);

  /// The guest is to be told something, in turn, or not.
  void Queue(VsockConnection* connection, bool has_news);
  List& ready() { return ready_; }
  /// The first came first.
  List& greetings() { return greetings_; }
  const List& greetings() const { return greetings_; }

 private:
  static uint64_t Key(uint32_t guest_port, uint32_t host_port) {
    return uint64_t{guest_port} << 32 | host_port;
  }
  static void Move(VsockConnection* connection, List* to);

  List greetings_, idle_, ready_, dead_;
  std::unordered_map<uint64_t, VsockConnection*> by_ports_;
  size_t count_ = 0;
  size_t wide_count_ = 0;
  uint32_t next_host_port_ = 0;
};

}  // namespace vmm
