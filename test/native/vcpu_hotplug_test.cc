/// vCPUs of a real KVM come and go while others run, and the JS thread serves them.
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "../../native/kvm/vm.h"
#include "check.h"

namespace {

using vmm::Access;
using vmm::GuestMemory;
using vmm::NewVcpu;
using vmm::Space;
using vmm::SpareVm;
using vmm::Vm;
using vmm::VmEvent;

constexpr size_t kVcpusMax = 4;
constexpr uint64_t kPort = 0x500;

/// 32-bit code at 0x1000: INIT and SIPI to all others, again and again.
constexpr uint8_t kStarter[] = {0xb8, 0x00, 0x45, 0x0c, 0x00, 0xa3, 0x00, 0x03, 0xe0, 0xfe, 0xb8,
                                0x02, 0x46, 0x0c, 0x00, 0xa3, 0x00, 0x03, 0xe0, 0xfe, 0xeb, 0xea};
/// 16-bit code at 0x2000: mov dx, kPort; out dx, al; and the latter again.
constexpr uint8_t kStorm[] = {0xba, 0x00, 0x05, 0xee, 0xeb, 0xfd};

vmm::BootPlan Plan() {
  const auto blob = [](uint64_t gpa, const auto& code) {
    vmm::Blob made;
    made.gpa = gpa;
    for (const uint8_t byte : code) made.bytes.push_back(std::byte{byte});
    return made;
  };
  vmm::BootPlan plan{};
  plan.blobs = {blob(0x1000, kStarter), blob(0x2000, kStorm)};
  plan.cpuid = {{}};
  plan.entry.rip = plan.entry.rsp = 0x1000;
  plan.entry.cr0 = 0x11;
  plan.entry.code = {8, 0, 0xffffffff, 0xc09b};
  plan.entry.data = {16, 0, 0xffffffff, 0xc093};
  plan.entry.task = {0, 0, 0xffff, 0x8b};
  return plan;
}

/// A machine, of which the test is the JS thread.
class Machine {
 public:
  Machine() {
    auto memory = std::make_shared<GuestMemory>();
    vmm::RegionOptions ram{};
    ram.size_bytes = 1 << 20;
    CHECK(memory->Add(ram) == 0);
    vmm::VmFds fds;
    CHECK(SpareVm().Take(&fds).ok());
    const vmm::VmOptions options{{{0, {}}}, kVcpusMax, 0xf8000000};
    const auto wake = [this] {
      const std::lock_guard lock(mutex_);
      woken_ = true;
      wakes_.notify_one();
    };
    CHECK(Vm::Create(options, std::move(fds), memory, wake, &vm_).ok());
    CHECK(vm_->bus().Claim(Space::kPort, {kPort, 1, nullptr, 0}) == 0);
    CHECK(vm_->Boot(Plan()).ok());
    CHECK(vm_->Run().ok());
  }

  Vm& vm() { return *vm_; }
  uint64_t served() const { return served_; }

  /// Does what the event loop does, until `done` holds.
  template <class Done>
  void ServeUntil(Done done) {
    while (!done()) {
      {
        std::unique_lock lock(mutex_);
        wakes_.wait_for(lock, std::chrono::milliseconds(1), [this] { return woken_; });
        woken_ = false;
      }
      vm_->Serve([this](size_t, const Access&) { return ++served_, std::optional<uint32_t>(0); });
      for (const VmEvent& event : vm_->TakeEvents()) {
        CHECK(event.kind == VmEvent::Kind::kAllParked || event.kind == VmEvent::Kind::kAllEnded);
        ended_ = ended_ || event.kind == VmEvent::Kind::kAllEnded;
      }
    }
  }

  /// As a worker does, while the JS thread goes on.
  template <class Work>
  void OnWorker(Work work) {
    std::atomic<bool> done{false};
    std::jthread worker([&] { work(), done.store(true); });
    ServeUntil([&] { return done.load(); });
  }

  void Plug(size_t vcpu) {
    OnWorker([&] { vm_->AwaitReset(vcpu, vcpu + 1); });
    CHECK(vm_->Plug(vcpu).ok());
  }

  void MakeAll() {
    std::vector<NewVcpu> others;
    for (uint32_t id = 1; id < kVcpusMax; ++id) others.push_back({{id, {}}, {}});
    CHECK(vm_->AddVcpus(1, others) == 0);
    OnWorker([&] { CHECK(vm_->MakeVcpus(1, others).ok()); });
  }

  void End() {
    CHECK(!vm_->Stop());
    ServeUntil([this] { return ended_; });
    vm_ = nullptr;
  }

 private:
  std::mutex mutex_;
  std::condition_variable wakes_;
  bool woken_ = false;
  bool ended_ = false;
  uint64_t served_ = 0;
  std::unique_ptr<Vm> vm_;
};

/// Whoever is plugged asks sooner or later; whoever is not makes no pause wait, nor the end.
void ComeAndGo() {
  std::mt19937 random(1);
  Machine machine;
  machine.MakeAll();
  std::vector<bool> plugged(kVcpusMax, false);
  for (int round = 0; round < 200; ++round) {
    const size_t vcpu = 1 + random() % (kVcpusMax - 1);
    if (plugged[vcpu])
      CHECK(machine.vm().Unplug(vcpu).ok());
    else
      machine.Plug(vcpu);
    plugged[vcpu] = !plugged[vcpu];
    if (round % 4 == 0) {
      machine.vm().Pause();
      machine.ServeUntil([&] { return machine.vm().AllParked(); });
      if (!plugged[vcpu]) machine.Plug(vcpu), plugged[vcpu] = true;
      machine.vm().Resume();
    }
  }
  for (size_t vcpu = 1; vcpu < kVcpusMax; ++vcpu)
    if (!plugged[vcpu]) machine.Plug(vcpu);
  const uint64_t before = machine.served();
  machine.ServeUntil([&] { return machine.served() > before + 100; });
  machine.End();
}

/// The end comes while a vCPU is on its way out.
void EndWhileUnplugging() {
  for (int life = 0; life < 5; ++life) {
    Machine machine;
    machine.MakeAll();
    machine.Plug(1);
    machine.ServeUntil([&] { return machine.served() > 0; });
    CHECK(machine.vm().Unplug(1).ok());
    machine.End();
  }
}

void RefusesWhatIsNot() {
  Machine machine;
  CHECK(!machine.vm().Plug(1).ok());
  CHECK(machine.vm().AddVcpus(2, {{{2, {}}, {}}}) < 0);
  CHECK(machine.vm().AddVcpus(1, std::vector<NewVcpu>(kVcpusMax)) < 0);
  machine.MakeAll();
  machine.MakeAll();
  machine.Plug(1);
  CHECK(!machine.vm().Plug(1).ok());
  machine.End();
}

}  // namespace

int main() {
  Test("vCPUs come and go, pause or not", ComeAndGo);
  Test("a machine ends while a vCPU goes", EndWhileUnplugging);
  Test("what cannot be plugged is refused", RefusesWhatIsNot);
}
