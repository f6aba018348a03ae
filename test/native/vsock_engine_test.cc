#include <algorithm>

#include "threads.h"
#include "vsock_host.h"

namespace {

constexpr uint16_t kRequest = VIRTIO_VSOCK_OP_REQUEST, kResponse = VIRTIO_VSOCK_OP_RESPONSE,
                   kReset = VIRTIO_VSOCK_OP_RST, kShutdown = VIRTIO_VSOCK_OP_SHUTDOWN,
                   kPayload = VIRTIO_VSOCK_OP_RW, kUpdate = VIRTIO_VSOCK_OP_CREDIT_UPDATE,
                   kAsk = VIRTIO_VSOCK_OP_CREDIT_REQUEST;
constexpr uint32_t kBothWays = vmm::kVsockBothWays;

/// Bytes that tell where they belong.
std::string Stream(size_t count) {
  std::string bytes(count, '\0');
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<char>(i * 31 + i / 251);
  return bytes;
}

void Shut(VsockGuest& guest, uint32_t guest_port, uint32_t host_port, uint32_t flags) {
  guest.Send(kShutdown, guest_port, host_port, "",
             [&](vmm::VsockHeader* header) { header->flags = flags; });
}

void HostReachesGuest() {
  VsockBench bench;
  HostSocket client = bench.Dial();
  client.Send("connect 52\nhello");  // in any letter case; what follows is of the stream

  const Packet request = *bench.guest.Receive();
  CHECK(request.header.op == kRequest && request.header.dst_port == 52);
  CHECK(request.header.src_cid == 2 && request.header.type == VIRTIO_VSOCK_TYPE_STREAM);
  CHECK(request.header.buf_alloc == 256 << 10);
  CHECK(bench.guest.ReceivesNothing() && !client.HasNews(0));

  const uint32_t port = request.header.src_port;
  bench.guest.Send(kResponse, 52, port);
  const std::string ok = "OK " + std::to_string(port) + "\n";
  CHECK(client.Read(ok.size()) == ok);
  CHECK(bench.guest.Expect(kPayload, 52, port).payload == "hello");
  bench.guest.Send(kPayload, 52, port, "welcome");
  CHECK(client.Read(7) == "welcome" && !client.HasNews(0));
}

void ClientsOfOnePortAreApart() {
  VsockBench bench;
  uint32_t one = 0, other = 0;
  HostSocket first = bench.ConnectIn(52, &one);
  HostSocket second = bench.ConnectIn(52, &other);

  CHECK(one != other);
  bench.guest.Send(kPayload, 52, other, "second");
  CHECK(second.Read(6) == "second" && !first.HasNews(0));
}

/// Descriptors end a read early.
void DropsDescriptorsAndNoByte() {
  VsockBench bench;
  uint32_t port = 0;
  HostSocket client = bench.ConnectIn(52, &port);
  bench.Pause();
  for (int i = 0; i < 3; ++i) client.SendWithFd("abc");
  bench.engine().Resume();

  std::string at_guest;
  while (at_guest.size() < 9) at_guest += bench.guest.Expect(kPayload, 52, port).payload;
  CHECK(at_guest == "abcabcabc");
}

void GuestReachesHost() {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1025);
  HostSocket server = bench.ConnectOut(listener, 7, 1025);

  bench.guest.Send(kPayload, 7, 1025, "ping");
  CHECK(server.Read(4) == "ping");
  server.Send("pong");
  CHECK(bench.guest.Expect(kPayload, 7, 1025).payload == "pong");
}

void RefusesWhatNobodyListensFor() {
  VsockBench bench;
  bench.guest.Send(kRequest, 7, 1025);
  bench.guest.Expect(kReset, 7, 1025);

  HostSocket client = bench.Dial();
  client.Send("CONNECT 52\n");
  const Packet request = *bench.guest.Receive();
  bench.guest.Send(kReset, 52, request.header.src_port);
  CHECK(client.AtEnd());
  CHECK(bench.guest.ReceivesNothing());
}

/// Both ways at once, with buffers and windows far smaller than what is sent.
void CarriesEveryByteInOrder(bool event_idx) {
  VsockBench bench(16, event_idx);
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  const std::string sent = Stream(2 << 20);
  std::string at_guest, at_host;
  size_t from_host = 0, from_guest = 0;
  uint32_t room = 256 << 10, forwarded = 0;
  bench.guest.window_bytes = 50'000;
  bench.guest.Send(kUpdate, 7, 1);
  while (at_guest.size() < sent.size() || at_host.size() < sent.size()) {
    const ssize_t n = send(server.fd(), sent.data() + from_host, sent.size() - from_host,
                           MSG_DONTWAIT | MSG_NOSIGNAL);
    from_host += n > 0 ? static_cast<size_t>(n) : 0;
    const size_t count = std::min<size_t>({60'000, sent.size() - from_guest, room});
    if (count > 0) bench.guest.Send(kPayload, 7, 1, sent.substr(from_guest, count));
    from_guest += count;
    at_host += server.ReadSome();
    while (const std::optional<Packet> packet = bench.guest.Receive(1)) {
      CHECK(packet->header.op != kReset && packet->header.op != kShutdown);
      at_guest += packet->payload;
      forwarded = packet->header.fwd_cnt;
      bench.guest.forwarded = static_cast<uint32_t>(at_guest.size());

      if (packet->header.op != kUpdate) bench.guest.Send(kUpdate, 7, 1);
    }
    room = static_cast<uint32_t>((256 << 10) - (from_guest - forwarded));
  }
  CHECK(at_guest == sent && at_host == sent);
}

void SendsNoMoreThanThereIsCreditFor() {
  VsockBench bench;
  bench.guest.window_bytes = 100;
  uint32_t port = 0;
  HostSocket client = bench.ConnectIn(52, &port);
  client.Send(std::string(250, 'a'));

  CHECK(bench.guest.Expect(kPayload, 52, port).payload.size() == 100);
  bench.guest.Expect(kAsk, 52, port);
  CHECK(bench.guest.ReceivesNothing());

  bench.guest.forwarded = 60;
  bench.guest.Send(kUpdate, 52, port);
  CHECK(bench.guest.Expect(kPayload, 52, port).payload.size() == 60);

  bench.guest.forwarded = 1'000;  // more than there was
  bench.guest.Send(kUpdate, 52, port);
  while (const std::optional<Packet> packet = bench.guest.Receive(50))
    CHECK(packet->header.op == kAsk);
}

void SleepsWhileThereIsNoCredit() {
  VsockBench bench;
  bench.guest.window_bytes = 100;
  uint32_t port = 0;
  HostSocket client = bench.ConnectIn(52, &port);
  client.Send(std::string(100, 'a'));
  bench.guest.Expect(kPayload, 52, port);
  client.Send("b");
  bench.guest.Expect(kAsk, 52, port);
  client.Send("c");  // told in vain, once

  CHECK(Sleeps("_vsock0", [&] {
    for (int i = 0; i < 10; ++i, usleep(1'000)) client.Send("d");
  }));

  bench.guest.forwarded = 100;
  bench.guest.Send(kUpdate, 52, port);
  CHECK(bench.guest.Expect(kPayload, 52, port).payload == "bcdddddddddd");
  client.Send("e");
  CHECK(bench.guest.Expect(kPayload, 52, port).payload == "e");
}

void SleepsWhileTheHostReads() {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  for (int i = 0; i < 10; ++i) bench.guest.Send(kPayload, 7, 1, "a");

  CHECK(Sleeps("_vsock0", [&] {
    for (int i = 0; i < 10; ++i, usleep(1'000)) server.Read(1);
  }));
}

void ShowsWhatItHasBeforeItReadsOn() {
  VsockBench bench(VsockGuest::kSize, false);
  bench.guest.window_bytes = 128 << 10;
  uint32_t port = 0;
  HostSocket client = bench.ConnectIn(52, &port);
  const std::shared_ptr<vmm::EventFd> irq = bench.guest.rx().irq;
  bench.Pause();
  client.Send(std::string(128 << 10, 'a'));
  irq->Take();

  bench.engine().Resume();
  CHECK(Sleeps("_vsock0"));

  uint64_t interrupts = 0;
  CHECK(read(irq->get(), &interrupts, sizeof(interrupts)) == sizeof(interrupts));
  CHECK(interrupts == 2);
}

void KeepsWhatTheHostIsSlowToTake() {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  const std::string sent = Stream(8 << 20);
  size_t from_guest = 0;
  // As much as there is credit for, of which a guest is told when it asks.
  const auto send_all = [&] {
    for (;;) {
      bench.guest.Send(kAsk, 7, 1);
      Packet last{};
      while (const std::optional<Packet> packet = bench.guest.Receive(10)) last = *packet;
      CHECK(last.header.op == kUpdate);
      const size_t room = (256 << 10) - (from_guest - last.header.fwd_cnt);
      const size_t count = std::min<size_t>({65'536, sent.size() - from_guest, room});
      if (count == 0) return room;
      bench.guest.Send(kPayload, 7, 1, sent.substr(from_guest, count));
      from_guest += count;
    }
  };
  CHECK(send_all() == 0 && from_guest < sent.size());
  uint32_t port = 0;
  HostSocket other = bench.ConnectIn(52, &port);
  bench.guest.Send(kPayload, 52, port, "swift");
  CHECK(other.Read(5) == "swift");

  std::string at_host;
  while (at_host.size() < sent.size()) {
    at_host += server.Read(from_guest - at_host.size());
    send_all();
  }
  CHECK(at_host == sent);
}

/// A packet may be taken before the engine hears that the socket has room again.
void OvertakesNothing() {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  const std::string sent = Stream(256 << 10);  // more than a socket takes
  for (size_t at = 0; at < sent.size(); at += 32 << 10)
    bench.guest.Send(kPayload, 7, 1, sent.substr(at, 32 << 10));
  bench.Pause();
  std::string at_host = server.ReadSome();
  CHECK(!at_host.empty() && at_host.size() < sent.size());

  bench.guest.Post(kPayload, 7, 1, "the last");
  bench.engine().Resume();
  bench.guest.AwaitTaken();

  at_host += server.Read(sent.size() + 8 - at_host.size());
  CHECK(at_host == sent + "the last");
}

void HalfClosesByHost() {
  VsockBench bench;
  uint32_t port = 0;
  HostSocket client = bench.ConnectIn(52, &port);
  client.Send("last words");
  client.EndWrite();

  CHECK(bench.guest.Expect(kPayload, 52, port).payload == "last words");
  CHECK(bench.guest.Expect(kShutdown, 52, port).header.flags == VIRTIO_VSOCK_SHUTDOWN_SEND);
  bench.guest.Send(kPayload, 52, port, "answer");
  CHECK(client.Read(6) == "answer");

  Shut(bench.guest, 52, port, kBothWays);
  bench.guest.Expect(kReset, 52, port);
  CHECK(client.AtEnd());
}

void HalfClosesByGuest() {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  bench.guest.Send(kPayload, 7, 1, "question");
  Shut(bench.guest, 7, 1, VIRTIO_VSOCK_SHUTDOWN_SEND);

  CHECK(server.Read(100) == "question");
  server.Send("answer");
  CHECK(bench.guest.Expect(kPayload, 7, 1).payload == "answer");

  server.Close();
  CHECK(bench.guest.Expect(kShutdown, 7, 1).header.flags == kBothWays);
  bench.guest.Send(kReset, 7, 1);
  bench.guest.Send(kPayload, 7, 1, "x");
  bench.guest.Expect(kReset, 7, 1);  // for nobody knows it any more
}

void GuestStopsReceiving() {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  Shut(bench.guest, 7, 1, VIRTIO_VSOCK_SHUTDOWN_RCV);

  CHECK(!server.MaySend());
  bench.guest.Send(kPayload, 7, 1, "still");
  CHECK(server.Read(5) == "still");
  server.Close();
  CHECK(bench.guest.Expect(kShutdown, 7, 1).header.flags == kBothWays);
}

void HostStopsReceiving() {
  VsockBench bench;
  uint32_t port = 0;
  HostSocket client = bench.ConnectIn(52, &port);
  CHECK(shutdown(client.fd(), SHUT_RD) == 0);

  bench.guest.Send(kPayload, 52, port, "in vain");
  CHECK(bench.guest.Expect(kShutdown, 52, port).header.flags == VIRTIO_VSOCK_SHUTDOWN_RCV);
  bench.guest.Send(kPayload, 52, port, "again");  // it is told once
  client.Send("still");
  CHECK(bench.guest.Expect(kPayload, 52, port).payload == "still");
}

void HostGoesAway() {
  VsockBench bench;
  uint32_t port = 0;
  HostSocket client = bench.ConnectIn(52, &port);
  client.Send("bye");
  client.Close();

  CHECK(bench.guest.Expect(kPayload, 52, port).payload == "bye");
  CHECK(bench.guest.Expect(kShutdown, 52, port).header.flags == kBothWays);
  bench.guest.Send(kPayload, 52, port, "on the way");  // no fault of the guest's
  CHECK(bench.guest.ReceivesNothing());
  Shut(bench.guest, 52, port, kBothWays);
  bench.guest.Expect(kReset, 52, port);
}

/// What the guest sent before it closed arrives, however slow the host is.
void DrainsAfterTheGuestIsGone(uint16_t last_op) {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  const std::string sent = Stream(400 << 10);
  uint32_t forwarded = 0;
  for (size_t at = 0; at < sent.size(); at += 50 << 10) {
    while (at + (50 << 10) - forwarded > 256 << 10)
      forwarded = bench.guest.Receive()->header.fwd_cnt;
    bench.guest.Send(kPayload, 7, 1, sent.substr(at, 50 << 10));
  }
  if (last_op == kShutdown) {
    Shut(bench.guest, 7, 1, kBothWays);
    Packet answer = *bench.guest.Receive();
    while (answer.header.op == kUpdate) answer = *bench.guest.Receive();
    CHECK(answer.header.op == kReset);
  } else {
    bench.guest.Send(kReset, 7, 1);
  }
  // The ports are free at once.
  HostSocket next = bench.ConnectOut(listener, 7, 1);

  CHECK(server.Read(sent.size() + 1) == sent);
}

void ClientLeavesBeforeTheAnswer() {
  VsockBench bench;
  HostSocket client = bench.Dial();
  client.Send("CONNECT 52\n");
  const uint32_t port = bench.guest.Receive()->header.src_port;
  client.Close();

  bench.guest.Expect(kReset, 52, port);
  bench.guest.Send(kResponse, 52, port);
  bench.guest.Expect(kReset, 52, port);
}

void NobodyHearsOfWhoLeftAtOnce() {
  VsockBench bench(0);
  for (int i = 0; i < 200; ++i) {
    HostSocket client = bench.Dial();
    client.Send("CONNECT 52\n");
  }
  bench.Pause();
  bench.engine().Resume();
  bench.guest.OfferRooms(VsockGuest::kSize);
  HostSocket client = bench.Dial();
  client.Send("CONNECT 53\n");
  int open = 0;
  for (;;) {
    const Packet packet = *bench.guest.Receive();
    if (packet.header.dst_port == 53) break;
    open += packet.header.op == kRequest ? 1 : -1;
    CHECK(open >= 0);
  }
}

void WaitsForRoom() {
  VsockBench bench(1);
  bench.guest.takes_rooms = false;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  server.Send("later");
  // Without a buffer nothing comes in, and what goes out is not held up.
  bench.guest.Send(kPayload, 7, 1, "now");
  CHECK(server.Read(3) == "now");
  CHECK(bench.guest.ReceivesNothing());

  bench.guest.OfferRooms(1);
  CHECK(bench.guest.Expect(kPayload, 7, 1).payload == "later");
}

void ServesMany() {
  constexpr uint32_t kMany = 1023;
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  std::vector<HostSocket> servers;
  for (uint32_t port = 0; port < kMany; ++port)
    servers.push_back(bench.ConnectOut(listener, port, 1));

  for (uint32_t port = 0; port < kMany; ++port)
    bench.guest.Send(kPayload, port, 1, std::to_string(port));
  for (uint32_t port = 0; port < kMany; ++port) {
    const std::string text = std::to_string(port);
    CHECK(servers[port].Read(text.size()) == text);
    servers[port].Send(text);
    CHECK(bench.guest.Expect(kPayload, port, 1).payload == text);
  }
}

void SurvivesAPause() {
  VsockBench bench;
  uint32_t port = 0;
  HostSocket client = bench.ConnectIn(52, &port);
  bench.Pause();
  client.Send("meanwhile");
  HostSocket waiting = bench.Dial();
  waiting.Send("CONNECT 53\n");
  CHECK(bench.guest.ReceivesNothing() && !waiting.HasNews(0));

  bench.engine().Resume();
  const Packet first = *bench.guest.Receive();
  const Packet second = *bench.guest.Receive();
  CHECK(first.payload + second.payload == "meanwhile");
  CHECK(first.header.dst_port + second.header.dst_port == 52 + 53);
}

void StopClosesAll() {
  VsockBench bench;
  uint32_t port = 0;
  HostSocket client = bench.ConnectIn(52, &port);
  HostSocket silent = bench.Dial();
  bench.guest.Send(kAsk, 52, port);
  bench.guest.Expect(kUpdate, 52, port);
  bench.Stop();
  CHECK(client.AtEnd());
}

void Storm() {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  std::string at_guest;
  for (int round = 0; round < 200; ++round) {
    server.Send("0123456789");
    Flag paused;
    bench.engine().Pause(paused.Setter());
    if (round % 3 != 0) CHECK(paused.Await());
    bench.engine().Resume();
    while (at_guest.size() < static_cast<size_t>(round + 1) * 10)
      at_guest += bench.guest.Expect(kPayload, 7, 1).payload;
    bench.guest.Send(kPayload, 7, 1, "x");
    CHECK(server.Read(1) == "x" && paused.Await());
  }
}

}  // namespace

int main() {
  Test("a client reaches a port of the guest, and is told so once", HostReachesGuest);
  Test("clients of one port are told apart", ClientsOfOnePortAreApart);
  Test("descriptors that a client sends are dropped, and no byte", DropsDescriptorsAndNoByte);
  Test("the guest reaches what listens for a port", GuestReachesHost);
  Test("what nobody listens for is refused at once", RefusesWhatNobodyListensFor);
  Test("every byte arrives in order", [] { CarriesEveryByteInOrder(true); });
  Test("so it does without event indexes", [] { CarriesEveryByteInOrder(false); });
  Test("the guest is sent what it has credit for", SendsNoMoreThanThereIsCreditFor);
  Test("a client that writes without credit wakes nobody", SleepsWhileThereIsNoCredit);
  Test("a server that reads wakes nobody", SleepsWhileTheHostReads);
  Test("the guest begins with a part of much", ShowsWhatItHasBeforeItReadsOn);
  Test("a slow host holds up its own connection only", KeepsWhatTheHostIsSlowToTake);
  Test("no packet overtakes what is kept of others", OvertakesNothing);
  Test("the host may end its half", HalfClosesByHost);
  Test("the guest may end its half", HalfClosesByGuest);
  Test("the guest may stop receiving", GuestStopsReceiving);
  Test("the host may stop receiving", HostStopsReceiving);
  Test("the guest hears of a host that is gone, after its last bytes", HostGoesAway);
  Test("what the guest sent before it closed arrives",
       [] { DrainsAfterTheGuestIsGone(kShutdown); });
  Test("so does what it sent before a reset", [] { DrainsAfterTheGuestIsGone(kReset); });
  Test("a client that does not wait for the answer is reset", ClientLeavesBeforeTheAnswer);
  Test("of clients that left early the guest has no open requests", NobodyHearsOfWhoLeftAtOnce);
  Test("without buffers the guest gets nothing, and may send", WaitsForRoom);
  Test("1,023 connections each carry their own", ServesMany);
  Test("connections survive a pause", SurvivesAPause);
  Test("a stop closes all", StopClosesAll);
  Test("pauses and resumes under load lose nothing", Storm);
}
