#include "vsock_host.h"

/// What guests and clients do that is against the rules, or too much of what is not.
namespace {

using Header = vmm::VsockHeader;

constexpr uint16_t kRequest = VIRTIO_VSOCK_OP_REQUEST, kResponse = VIRTIO_VSOCK_OP_RESPONSE,
                   kReset = VIRTIO_VSOCK_OP_RST, kShutdown = VIRTIO_VSOCK_OP_SHUTDOWN,
                   kPayload = VIRTIO_VSOCK_OP_RW, kUpdate = VIRTIO_VSOCK_OP_CREDIT_UPDATE,
                   kAsk = VIRTIO_VSOCK_OP_CREDIT_REQUEST;

void TurnsStrangersAway() {
  VsockBench bench;
  for (const char* line : {"GET / HTTP/1.1\n", "CONNECT\n", "CONNECT 4294967296\n", "CONNECT -1\n",
                           "CONNECT 5x\n", "\n"}) {
    HostSocket client = bench.Dial();
    client.Send(line);
    CHECK(client.AtEnd());
  }
  HostSocket endless = bench.Dial();
  const std::string flood(1 << 20, 'C');
  CHECK(send(endless.fd(), flood.data(), flood.size(), MSG_NOSIGNAL) < (1 << 20));
  CHECK(endless.AtEnd());
  CHECK(bench.guest.ReceivesNothing());
}

void SilentClientsGiveWay() {
  VsockBench bench;
  std::vector<HostSocket> silent;
  for (size_t i = 0; i < vmm::VsockTable::kGreetingsMax + 1; ++i) silent.push_back(bench.Dial());

  CHECK(silent[0].AtEnd());  // it was the first
  uint32_t port = 0;
  HostSocket busy = bench.ConnectIn(52, &port);
  CHECK(silent[1].AtEnd() && !silent[2].HasNews(0));
}

void SilentClientsHaveATime() {
  VsockBench bench(VsockGuest::kSize, true, 200);
  HostSocket silent = bench.Dial();
  HostSocket slow = bench.Dial();
  slow.Send("CONN");
  uint32_t port = 0;
  HostSocket busy = bench.ConnectIn(52, &port);

  CHECK(silent.AtEnd() && slow.AtEnd());
  busy.Send("x");
  CHECK(bench.guest.Expect(kPayload, 52, port).payload == "x");
}

void GreetsInPieces() {
  VsockBench bench;
  HostSocket client = bench.Dial();
  for (const char* piece : {"CON", "NECT ", "5", "2"}) {
    client.Send(piece);
    CHECK(bench.guest.ReceivesNothing());
  }
  client.Send("\n");
  CHECK(bench.guest.Receive()->header.dst_port == 52);
}

void ResetsWhoSendsWithoutCredit() {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  for (int i = 0; i < 20; ++i) bench.guest.Send(kPayload, 7, 1, std::string(60'000, 'x'));

  std::optional<Packet> packet = bench.guest.Receive();
  while (packet && packet->header.op == kUpdate) packet = bench.guest.Receive();
  CHECK(packet && packet->header.op == kReset);
  while (!server.Read(60'000).empty()) {
  }
}

void AnswersNonsenseByResets() {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  const auto refused = [&](uint16_t op, const std::function<void(vmm::VsockHeader*)>& change) {
    bench.guest.Send(op, 9, 1, "", change);
    return bench.guest.Expect(kReset, 9, 1);
  };
  CHECK(refused(kRequest, [](Header* h) { h->type = 2; }).header.type == 2);
  CHECK(refused(kRequest, [](Header* h) { h->dst_cid = 77; }).header.src_cid == 77);
  refused(kRequest, [](Header* h) { h->src_cid = 77; });
  for (const uint16_t op : {kPayload, kShutdown, kUpdate, kAsk, kResponse}) refused(op, {});
  for (const uint16_t op : std::initializer_list<uint16_t>{0, 8, 0xffff}) refused(op, {});
  bench.guest.Send(kReset, 9, 1);
  CHECK(bench.guest.ReceivesNothing());
}

void ResetsConnectionsOnNonsense() {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  const std::vector<std::function<void(Header*)>> nonsense = {
      [](Header* h) { h->op = kRequest; },     [](Header* h) { h->op = kResponse; },
      [](Header* h) { h->op = 99; },           [](Header* h) { h->len = 6; },
      [](Header* h) { h->len = 0xffff'ffff; },
  };
  for (const auto& change : nonsense) {
    HostSocket server = bench.ConnectOut(listener, 9, 1);
    bench.guest.Send(kPayload, 9, 1, "12345", change);
    bench.guest.Expect(kReset, 9, 1);
    CHECK(server.AtEnd());
  }
  HostSocket server = bench.ConnectOut(listener, 9, 1);
  bench.guest.Send(kPayload, 9, 1, "12345", [](Header* h) { h->len = 2; });
  CHECK(server.Read(2) == "12" && !server.HasNews(0));
}

void PassesOverWhatIsNoPacket() {
  VsockBench bench;
  Driver& tx = bench.guest.tx_driver();
  tx.DescribeChain(0, {{0x90000, 43}});
  bench.guest.SendChain();
  tx.DescribeChain(0, {{0x90000, 4096, true}});
  bench.guest.SendChain();
  CHECK(bench.guest.ReceivesNothing());
}

void PayloadInPieces() {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  bench.guest.Send(kPayload, 7, 1, "abcdef");
  CHECK(server.Read(6) == "abcdef");
  // The same bytes again, with header and payload cut elsewhere.
  bench.guest.tx_driver().DescribeChain(
      0, {{0x90000, 40}, {0x90028, 6}, {0x90000, 0}, {0x9002e, 1}, {0x9002f, 3}});
  bench.guest.SendChain();
  CHECK(server.Read(6) == "abcdef");
}

void BuffersOfAllKinds() {
  VsockBench bench(0);
  HostSocket client = bench.Dial();
  client.Send("CONNECT 52\n");
  Driver& rx = bench.guest.rx_driver();
  const auto offer = [&](std::initializer_list<Buffer> buffers) {
    rx.DescribeChain(0, buffers);
    rx.Offer(0);
    bench.guest.KickRx();
  };
  bench.guest.takes_rooms = false;
  offer({{0x40000, 43, true}});  // no room for a header: goes back as it came
  CHECK(bench.guest.Receive()->header.op == 0);
  offer({{0x40000, 44, true}});
  const uint32_t port = bench.guest.Expect(kRequest, 52, 1U << 30).header.src_port;
  bench.guest.Send(kResponse, 52, port);
  client.Send("0123456789");
  offer({{0x40000, 44, true}});  // room for a header only
  CHECK(bench.guest.Expect(kUpdate, 52, port).payload.empty());
  offer({{0x40000, 20, true}, {0x40014, 24 + 4, true}, {0x40030, 3, true}});
  CHECK(bench.guest.Expect(kPayload, 52, port).payload == "0123456");
}

/// 256 answers wait; what comes then is taken when one of them is sent.
void FloodOfNonsenseWaits() {
  VsockBench bench(0);
  for (int i = 0; i < 256; ++i) bench.guest.Send(kPayload, 9, 1);
  bench.guest.Post(kPayload, 9, 1);
  bench.Pause();
  bench.engine().Resume();
  Used used{};
  CHECK(!bench.guest.tx_driver().TakeUsed(&used));

  bench.guest.OfferRooms(VsockGuest::kSize);
  for (int i = 0; i < 257; ++i) bench.guest.Expect(kReset, 9, 1);
  bench.guest.AwaitTaken();
  CHECK(bench.guest.ReceivesNothing());
}

/// A guest that opens more than there may be harms itself, and only until it lets go.
void FloodOfConnections() {
  constexpr uint32_t kMax = vmm::VsockTable::kConnectionsMax;
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  std::vector<HostSocket> servers;
  uint32_t refused = 0;
  for (uint32_t port = 0; port < 10'000; ++port) {
    bench.guest.Send(kRequest, port, 1);
    const Packet answer = *bench.guest.Receive();
    if (answer.header.op == kReset)
      ++refused;
    else
      servers.push_back(VsockBench::AcceptAt(listener));
  }
  CHECK(servers.size() == kMax && refused == 10'000 - kMax);
  HostSocket client = bench.Dial();
  CHECK(client.AtEnd());

  bench.guest.Send(kReset, 0, 1);
  CHECK(servers[0].AtEnd());
  uint32_t port = 0;
  HostSocket welcome = bench.ConnectIn(52, &port);
}

void BrokenQueueClosesAll(bool rx) {
  VsockBench bench(1);
  uint32_t port = 0;
  HostSocket client = bench.ConnectIn(52, &port);
  bench.guest.takes_rooms = false;
  client.Send("x");
  bench.guest.Expect(kPayload, 52, port);
  Driver& driver = rx ? bench.guest.rx_driver() : bench.guest.tx_driver();
  driver.Offer(VsockGuest::kSize);
  bench.guest.KickTx();
  client.MaySend();  // has it look at its rx queue, unless it has found the fault already

  CHECK(client.AtEnd());
  HostSocket next = bench.Dial();
  CHECK(next.AtEnd());
  bench.Stop();
  CHECK(bench.guest.faults == std::vector<std::string>{"head beyond the table"});
}

}  // namespace

int main() {
  Test("clients that say something else, or too much, are turned away", TurnsStrangersAway);
  Test("clients that say nothing give way to others", SilentClientsGiveWay);
  Test("clients that say nothing have a time", SilentClientsHaveATime);
  Test("a client may say it in pieces", GreetsInPieces);
  Test("a guest that sends without credit is reset", ResetsWhoSendsWithoutCredit);
  Test("packets that belong to nobody are reset, resets are not", AnswersNonsenseByResets);
  Test("lying lengths and wrong operations reset their connection", ResetsConnectionsOnNonsense);
  Test("what is too short for a header is passed over", PassesOverWhatIsNoPacket);
  Test("header and payload may be cut anywhere", PayloadInPieces);
  Test("buffers of any size get what fits", BuffersOfAllKinds);
  Test("every packet of a flood is answered when there is room", FloodOfNonsenseWaits);
  Test("a flood of connections is refused, and leaves no trace", FloodOfConnections);
  Test("a broken rx queue closes all, and clients are turned away",
       [] { BrokenQueueClosesAll(true); });
  Test("so does a broken tx queue", [] { BrokenQueueClosesAll(false); });
}
