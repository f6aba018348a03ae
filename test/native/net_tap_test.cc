#include <chrono>
#include <functional>
#include <thread>

#include "../../native/engines/net.h"
#include "../../native/sys/tap.h"
#include "flag.h"
#include "host_net.h"
#include "net_guest.h"

namespace {

constexpr uint64_t kRx = NetGuest::kRx;
constexpr uint8_t kNeedsChecksum = 1;
constexpr uint8_t kGsoTcpV4 = 1;

/// A frame from the host, and what the guest is to find of it: from the host there is no header.
Bytes HostFrame(size_t bytes, uint8_t seed = 1) {
  const Bytes frame = Frame(bytes, seed);
  Bytes host(frame.begin() + kHeaderBytes, frame.end());
  std::fill(host.begin(), host.begin() + 6, uint8_t{0xff});
  host[12] = HostEnd::kProtocol >> 8;
  host[13] = HostEnd::kProtocol & 0xff;
  return host;
}
Bytes GuestFrame(const Bytes& host, uint8_t num_buffers = 0) {
  Bytes frame(kHeaderBytes);
  frame[10] = num_buffers;
  frame.insert(frame.end(), host.begin(), host.end());
  return frame;
}

/// A card on real taps, all up.
class Card {
 public:
  explicit Card(uint32_t pairs = 1) : guests(pairs) {
    CHECK(vmm::OpenTap("vmtap%d", pairs, &tap).ok());
    Run("sysctl -qw net.ipv6.conf." + tap.name + ".disable_ipv6=1");
    CHECK(vmm::SetTapMtu(tap.name, 9000).ok() && vmm::SetTapUp(tap.name).ok());
    vmm::NetOptions options;
    options.id = "_net1";
    options.rx = {true, 9100};
    for (const vmm::Fd& file : tap.files) options.taps.push_back(file.get());
    options.on_tap_error = [this](const std::string&) { errors.fetch_add(1); };
    engine = std::make_unique<vmm::NetEngine>(options);
    std::vector<std::optional<vmm::EngineQueue>> queues;
    for (NetGuest& guest : guests) {
      queues.emplace_back(guest.rx.queue());
      queues.emplace_back(guest.tx.queue());
    }
    CHECK(engine->Start(std::move(queues)) == 0);
  }
  ~Card() {
    Flag ended;
    engine->Stop(ended.Setter());
    CHECK(ended.Await());
    engine->Join();
  }
  NetGuest& guest() { return guests[0]; }

  vmm::Tap tap;
  std::vector<NetGuest> guests;
  std::atomic<int> errors = 0;
  std::unique_ptr<vmm::NetEngine> engine;
};

void BothWays() {
  Card card;
  const HostEnd host(card.tap.name);
  for (uint16_t head = 0; head < 8; ++head) card.guest().OfferRoom(head, kRx + head * 2048U, 2048);

  CHECK(host.Put(HostFrame(5000)));
  card.guest().Send(0, GuestFrame(HostFrame(1000, 7)));

  for (const uint32_t head : {0U, 1U, 2U}) CHECK(card.guest().rx.Await().head == head);
  CHECK(card.guest().Read(kRx, 5012) == GuestFrame(HostFrame(5000), 3));
  CHECK(host.Get() == HostFrame(1000, 7));
}

/// The driver was told of 9000 bytes: larger frames are not for it, and others still are.
void MtuChanges() {
  Card card;
  const HostEnd host(card.tap.name);
  for (uint16_t head = 0; head < 8; ++head) card.guest().OfferRoom(head, kRx + head * 2048U, 2048);

  CHECK(vmm::SetTapMtu(card.tap.name, 20'000).ok());
  CHECK(host.Put(HostFrame(15'000)) && host.Put(HostFrame(300)));

  CHECK(card.guest().rx.Await().head == 0);
  CHECK(card.guest().Read(kRx, 312) == GuestFrame(HostFrame(300), 1));

  CHECK(vmm::SetTapMtu(card.tap.name, 1400).ok());
  CHECK(host.Put(HostFrame(1000)));
  card.guest().Send(0, GuestFrame(HostFrame(1000, 7)));

  CHECK(card.guest().rx.Await().written == kHeaderBytes + 1000);
  CHECK(host.Get() == HostFrame(1000, 7) && card.errors.load() == 0);
}

void DropsLies() {
  Card card;
  const HostEnd host(card.tap.name);
  const auto lie = [&](std::function<void(Bytes*)> tell) {
    Bytes frame = GuestFrame(HostFrame(100));
    tell(&frame);
    return frame;
  };
  card.guest().Send(0, lie([](Bytes* frame) { (*frame)[0] = kNeedsChecksum, (*frame)[7] = 0x7f; }));
  card.guest().Send(1, lie([](Bytes* frame) { (*frame)[1] = 0x77; }), NetGuest::kTx + 1000);
  card.guest().Send(2, lie([](Bytes* frame) { (*frame)[3] = 0xff; }), NetGuest::kTx + 2000);
  card.guest().Send(3, lie([](Bytes* frame) { (*frame)[1] = kGsoTcpV4; }), NetGuest::kTx + 3000);
  card.guest().Send(4, Bytes(13), NetGuest::kTx + 4000);
  card.guest().Send(5, GuestFrame(HostFrame(200)), NetGuest::kTx + 5000);

  for (uint32_t head = 0; head < 6; ++head) CHECK(card.guest().tx.Await().head == head);

  CHECK(host.Get() == HostFrame(200) && host.Get(0).empty());
  CHECK(card.engine->counters().tx_frames == 1 && card.errors.load() == 0);
}

void GoesDownAndUp() {
  Card card;
  Run("ip link set vmtap0 down");
  card.guest().Send(0, GuestFrame(HostFrame(100)));
  CHECK(card.guest().tx.Await().head == 0);
  CHECK(card.engine->counters().tx_frames == 0);

  Run("ip link set vmtap0 up");

  const HostEnd host(card.tap.name);
  card.guest().Send(1, GuestFrame(HostFrame(100)));
  CHECK(host.Get() == HostFrame(100));
  card.guest().OfferRoom(0, kRx, 2048);
  CHECK(host.Put(HostFrame(300)));
  CHECK(card.guest().rx.Await().written == kHeaderBytes + 300 && card.errors.load() == 0);
}

/// Offers what Load is to use, once.
void Offer(NetGuest* guest) {
  const Bytes frame = GuestFrame(HostFrame(200));
  guest->Write(NetGuest::kTx, frame);
  for (uint16_t head = 0; head < 64; ++head) {
    guest->rx.Offer(head, {{kRx, 2048, true}});
    guest->tx.Offer(head, {{NetGuest::kTx, static_cast<uint32_t>(frame.size())}});
  }
}

/// Sends and receives all it can until `enough`.
void Load(NetGuest* guest, const HostEnd& host, const std::function<bool()>& enough) {
  while (!enough()) {
    host.Put(HostFrame(100));
    host.Get(0);
    for (Used used{}; guest->tx.TakeUsed(&used);)
      guest->tx.driver().Offer(static_cast<uint16_t>(used.head));
    for (Used used{}; guest->rx.TakeUsed(&used);)
      guest->rx.driver().Offer(static_cast<uint16_t>(used.head));
    guest->tx.Kick();
    guest->rx.Kick();
  }
}

void DeletedUnderLoad() {
  Card card;
  const HostEnd host(card.tap.name);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  std::thread deleter([] {
    usleep(100'000);
    Run("ip link del vmtap0");
  });
  Offer(&card.guest());
  Load(&card.guest(), host,
       [&] { return card.errors.load() > 0 || std::chrono::steady_clock::now() > end; });
  deleter.join();

  CHECK(card.errors.load() == 1);
  const vmm::NetCounters counters = card.engine->counters();
  CHECK(counters.tx_frames > 0 && counters.rx_frames > 0);
  Used used{};
  for (int left = 64; left > 0; --left) used = card.guest().tx.Await();
  card.guest().Send(static_cast<uint16_t>(used.head), GuestFrame(HostFrame(100)));
  CHECK(card.guest().tx.Await().head == used.head);
  CHECK(card.engine->counters().tx_frames == counters.tx_frames && card.errors.load() == 1);
}

/// As a driver changes its mind, with the order of calls that NetEngine::SetPairs asks for.
void PairsComeAndGoUnderLoad() {
  Card card(2);
  const int second = card.tap.files[1].get();
  std::atomic<bool> done = false;
  std::thread control([&] {
    for (int i = 0; i < 300; ++i) {
      CHECK(vmm::SetTapQueue(second, false).ok() && vmm::SetTapQueue(second, true).ok());
      card.engine->SetPairs(2);
      usleep(500);
      card.engine->SetPairs(1);
    }
    done = true;
  });
  const HostEnd host(card.tap.name);
  Offer(&card.guests[1]);
  Load(&card.guests[1], host, [&] { return done.load(); });
  control.join();

  CHECK(card.errors.load() == 0);
  card.engine->SetPairs(2);
  const uint64_t before = card.engine->counters().tx_frames;
  Load(&card.guests[1], host, [&] { return card.engine->counters().tx_frames > before; });
}

}  // namespace

int main() {
  EnterNewNetwork();
  Test("jumbo frames pass both ways, merged from buffers", BothWays);
  Test("a tap whose MTU changes in use carries what its driver was told of", MtuChanges);
  Test("frames whose headers lie are dropped", DropsLies);
  Test("while the tap is down frames are dropped; when it is up again they pass", GoesDownAndUp);
  Test("a tap deleted under load is told of once, and sending ends well", DeletedUnderLoad);
  Test("pairs that come and go under load lose no tap", PairsComeAndGoUnderLoad);
}
