#include <unistd.h>

#include "../../native/engines/block.h"
#include "../../native/engines/net.h"
#include "block_guest.h"
#include "flag.h"
#include "net_guest.h"
#include "temporary_file.h"
#include "vsock_host.h"

/// Engines behind an IOMMU: nobody who sleeps, rests or is broken holds up an unmapping.
namespace {

using vmm::DmaSpace;
using vmm::Drain;

std::shared_ptr<DmaSpace> BypassSpace() {
  auto space = std::make_shared<DmaSpace>();
  space->Attach(nullptr, true, nullptr);
  return space;
}

/// Takes everything from the device; `over` is set when it reaches nothing of it any more.
void TakeAway(DmaSpace* space, Flag* over) {
  space->Attach(nullptr, false, std::make_shared<Drain>(over->Setter()));
}

template <class Engine>
void Stop(Engine* engine) {
  Flag ended;
  engine->Stop(ended.Setter());
  CHECK(ended.Await());
  engine->Join();
}

template <class Engine>
void Pause(Engine* engine) {
  Flag parked;
  engine->Pause(parked.Setter());
  CHECK(parked.Await());
}

/// A card with room for frames, of which one has come and one gone, and a thread that sleeps.
class Card {
 public:
  explicit Card(std::shared_ptr<DmaSpace> behind) : guest(true, NetGuest::kSize, behind) {
    vmm::NetOptions options;
    options.id = "_net1";
    options.taps = {tap.fd()};
    options.rx = {true, 65'562, 100'000'000, nullptr};
    options.on_tap_error = [](const std::string&) {};
    engine = std::make_unique<vmm::NetEngine>(options);
    CHECK(engine->Start({guest.rx.queue(), guest.tx.queue()}) == 0);
    for (uint16_t i = 0; i < 4; ++i) guest.OfferRoom(i, NetGuest::kRx + 0x10000 * i, 0x8000);
    tap.Put(Frame(60));
    CHECK(guest.rx.Await().head == 0);
    guest.Send(0, Frame(60));
    CHECK(guest.tx.Await().head == 0 && tap.Get() == Frame(60));
  }
  ~Card() { Stop(engine.get()); }
  void KickAll() const {
    guest.rx.kick().Signal();
    guest.tx.kick().Signal();
  }

  FakeTap tap;
  NetGuest guest;
  std::unique_ptr<vmm::NetEngine> engine;
};

void CardLetsGo() {
  const auto space = BypassSpace();
  Card card(space);
  Flag over;
  TakeAway(space.get(), &over);
  card.KickAll();
  CHECK(over.Await());
  card.guest.rx.AwaitFault();
  card.guest.tx.AwaitFault();
}

void PausedCardHoldsNothing() {
  const auto space = BypassSpace();
  Card card(space);
  Pause(card.engine.get());
  Flag over;
  space->Attach(nullptr, true, std::make_shared<Drain>(over.Setter()));
  CHECK(over.Await());
  card.engine->Resume();
  card.tap.Put(Frame(70));
  CHECK(card.guest.rx.Await().head == 1);
  card.guest.Send(1, Frame(80));
  CHECK(card.guest.tx.Await().head == 1 && card.tap.Get() == Frame(80));
}

void CardWithoutTapLetsGo() {
  const auto space = BypassSpace();
  Card card(space);
  card.tap.Drop();
  card.guest.Send(2, Frame(60));  // goes nowhere, and is taken all the same
  CHECK(card.guest.tx.Await().head == 2);
  Flag over;
  TakeAway(space.get(), &over);
  card.KickAll();
  CHECK(over.Await());
}

/// A disk that has served a request, and sleeps.
class Disk {
 public:
  explicit Disk(std::shared_ptr<DmaSpace> behind) : guest(64, true, behind) {
    vmm::BlockOptions options;
    options.id = "_disk0";
    options.image = RawDisk(file_.get(), 1 << 20);
    options.on_error = [](const std::string&) {};
    engine = std::make_unique<vmm::BlockEngine>(options);
    engine->Start({guest.queue()});
    Read();
  }
  ~Disk() { Stop(engine.get()); }
  void Read() {
    CHECK(guest.Do(VIRTIO_BLK_T_IN, 0, {{BlockGuest::kDataGpa, 512, true}}) == VIRTIO_BLK_S_OK);
  }

  BlockGuest guest;
  std::unique_ptr<vmm::BlockEngine> engine;

 private:
  const vmm::Fd file_ = TemporaryFile(1 << 20);
};

void DiskLetsGo() {
  const auto space = BypassSpace();
  Disk disk(space);
  Flag over;
  TakeAway(space.get(), &over);
  disk.guest.kick().Signal();
  CHECK(over.Await());
  while (disk.guest.fault() == nullptr) usleep(1000);
}

void PausedDiskHoldsNothing() {
  const auto space = BypassSpace();
  Disk disk(space);
  Pause(disk.engine.get());
  Flag over;
  space->Attach(nullptr, true, std::make_shared<Drain>(over.Setter()));
  CHECK(over.Await());
  disk.engine->Resume();
  disk.Read();
}

void VsockLetsGo() {
  const auto space = BypassSpace();
  VsockBench bench(VsockGuest::kSize, true, 60'000, space);
  bench.guest.Send(VIRTIO_VSOCK_OP_RST, 1, 2);
  Flag over;
  TakeAway(space.get(), &over);
  bench.guest.KickAll();
  CHECK(over.Await());
  bench.Stop();
  CHECK(!bench.guest.faults.empty());
}

void PausedVsockHoldsNothing() {
  const auto space = BypassSpace();
  VsockBench bench(VsockGuest::kSize, true, 60'000, space);
  bench.guest.Send(VIRTIO_VSOCK_OP_RST, 1, 2);
  bench.Pause();
  Flag over;
  space->Attach(nullptr, true, std::make_shared<Drain>(over.Setter()));
  CHECK(over.Await());
  bench.engine().Resume();
  bench.guest.Send(VIRTIO_VSOCK_OP_RST, 1, 2);
}

}  // namespace

int main() {
  Test("a card that sleeps lets go when it is kicked", CardLetsGo);
  Test("a card that is paused holds nothing", PausedCardHoldsNothing);
  Test("a card that has lost its tap lets go", CardWithoutTapLetsGo);
  Test("a disk that sleeps lets go when it is kicked", DiskLetsGo);
  Test("a disk that is paused holds nothing", PausedDiskHoldsNothing);
  Test("vsock that sleeps lets go when it is kicked", VsockLetsGo);
  Test("vsock that is paused holds nothing", PausedVsockHoldsNothing);
}
