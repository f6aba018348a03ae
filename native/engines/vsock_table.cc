#include "vsock_table.h"

namespace vmm {
namespace {

/// Ports of clients are from here on, as high as a guest is unlikely to connect to.
constexpr uint32_t kFirstHostPort = 1U << 30;

}  // namespace

VsockConnection* VsockTable::Add(Fd socket, VsockConnection::Phase phase) {
  if (full()) return nullptr;
  const bool wide = wide_count_ < kWideMax;
  List& list = phase == VsockConnection::Phase::kGreeting ? greetings_ : idle_;
  list.emplace_back(std::move(socket), phase, wide ? kWideBytes : kNarrowBytes);
  VsockConnection& connection = list.back();
  connection.in = &list;
  connection.self = std::prev(list.end());
  ++count_;
  wide_count_ += wide ? 1 : 0;
  return &connection;
}

void VsockTable::Remove(VsockConnection* connection) {
  if (connection->in == &dead_) return;
  Unlink(*connection);
  --count_;
  wide_count_ -= connection->window_bytes() == kWideBytes ? 1 : 0;
  connection->Close();
  Move(connection, &dead_);
}

void VsockTable::Clear() {
  by_ports_.clear();
  for (List* list : {&greetings_, &idle_, &ready_, &dead_}) list->clear();
  count_ = wide_count_ = 0;
}

std::vector<VsockConnection*> VsockTable::Starved() {
  std::vector<VsockConnection*> starved;
  for (List* list : {&idle_, &ready_})
    for (VsockConnection& connection : *list)
      if (connection.lacks_memory()) starved.push_back(&connection);
  return starved;
}

VsockConnection* VsockTable::Find(uint32_t guest_port, uint32_t host_port) const {
  const auto found = by_ports_.find(Key(guest_port, host_port));
  return found == by_ports_.end() ? nullptr : found->second;
}

void VsockTable::Link(VsockConnection* connection) {
  by_ports_[Key(connection->guest_port(), connection->host_port())] = connection;
}

/// Others may have its ports by now.
void VsockTable::Unlink(const VsockConnection& connection) {
  const auto found = by_ports_.find(Key(connection.guest_port(), connection.host_port()));
  if (found != by_ports_.end() && found->second == &connection) by_ports_.erase(found);
}

uint32_t VsockTable::PickHostPort(uint32_t guest_port) {
  // Ends: there are more ports than connections.
  while (true) {
    const uint32_t port = kFirstHostPort + next_host_port_++ % kFirstHostPort;
    if (Find(guest_port, port) == nullptr) return port;
  }
}

void VsockTable::Queue(VsockConnection* connection, bool has_news) {
  if (connection->in == &dead_) return;
  List* const to = has_news ? &ready_ : &idle_;
  if (connection->in != to) Move(connection, to);
}

void VsockTable::Move(VsockConnection* connection, List* to) {
  to->splice(to->end(), *connection->in, connection->self);
  connection->in = to;
}

}  // namespace vmm
