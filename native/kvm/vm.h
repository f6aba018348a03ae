#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "../base/event_fd.h"
#include "../base/fd.h"
#include "../base/status.h"
#include "../memory/file_window.h"
#include "../memory/guest_memory.h"
#include "boot_plan.h"
#include "exit_bus.h"
#include "exit_mailbox.h"
#include "irq.h"
#include "msi.h"
#include "passthrough.h"
#include "spare_vm.h"
#include "vcpu.h"

namespace vmm {

struct VmOptions {
  /// There at the boot.
  std::vector<VcpuOptions> vcpus;
  /// How many there can be.
  size_t vcpus_max;
  /// Three pages, and the page after them, that KVM takes for itself on some Intel hosts.
  uint64_t tss_gpa;
};

/// One that may be plugged.
struct NewVcpu {
  VcpuOptions options;
  std::vector<kvm_cpuid_entry2> cpuid;
};

struct VmEvent {
  enum class Kind { kTripleFault, kVcpuFailure, kAllParked, kAllEnded };
  Kind kind;
  size_t vcpu = 0;
  std::string message;
};

/// A KVM virtual machine and its vCPU threads.
///
/// All methods are the JS thread's, which never waits for a vCPU but in the destructor, once their
/// end is sure. Boot, MakeVcpus and AwaitReset may run on another.
class Vm : private VcpuOwner {
 public:
  /// `wake` has TakeEvents and Serve called soon on the JS thread. It is called on vCPU threads.
  static Status Create(const VmOptions& options, VmFds fds, std::shared_ptr<GuestMemory> memory,
                       std::function<void()> wake, std::unique_ptr<Vm>* out);
  ~Vm() override;
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  /// Takes from the guest the regions that its memory has lost, gives it those that it has gained.
  Status MapMemory();
  /// The guest finds the window at `gpa`, and nowhere else. 0, or a negative errno: -EEXIST if RAM
  /// or another window is there, -ENOSPC if there are too many.
  int AttachWindow(uint64_t gpa, std::shared_ptr<FileWindow> window);
  void DetachWindow(const FileWindow& window);
  ExitBus& bus() { return bus_; }
  /// A device that answers until its range is released. 0 or as ExitBus::Claim.
  int AddNative(Space space, uint64_t base, uint64_t size_bytes,
                std::shared_ptr<NativeDevice> device);
  /// Frequency of the guest's TSC, or a negative errno: Linux tells it of a VM since 5.19.
  int TscKhz() const;
  int CreateIrq(uint32_t gsi, Irq* out) const { return Irq::Create(vm_->get(), gsi, out); }
  int CreateIrqLine(uint32_t gsi, std::shared_ptr<IrqLine>* out) const {
    return IrqLine::Create(vm_, gsi, out);
  }
  /// An ioeventfd at `gpa`: 0 or a negative errno of KVM_IOEVENTFD. KVM's own hold on the eventfd
  /// ends with the Vm.
  int AttachKick(uint64_t gpa, const EventFd& kick) const { return SetKick(gpa, kick, true); }
  int DetachKick(uint64_t gpa, const EventFd& kick) const { return SetKick(gpa, kick, false); }
  /// Once.
  std::shared_ptr<MsiRoutes> MakeMsiRoutes() const { return std::make_shared<MsiRoutes>(vm_); }
  /// Once; it must be gone before the Vm.
  std::shared_ptr<Passthrough> MakePassthrough() const {
    return std::make_shared<Passthrough>(vm_->get());
  }

  /// Lays RAM out and makes the vCPUs. Any one thread, while the JS thread leaves the Vm alone.
  Status Boot(const BootPlan& plan);
  /// False until a Boot has ended well; before, nothing may Run.
  bool booted() const { return booted_.load(); }
  Status Run();
  /// kAllParked follows, unless AllParked() holds at once: a resume may not have reached the vCPUs.
  void Pause();
  /// After Pause: true if no vCPU runs guest code, or will before Resume or Plug.
  bool AllParked();
  /// The guest's clock goes on from where the pause stopped it.
  void Resume();
  void Nmi();

  size_t vcpu_count() const { return vcpus_.size(); }
  /// Makes room for vCPUs `first`, `first` + 1 and so on: 0 or -EINVAL if there cannot be as many,
  /// or not all before `first` are known.
  int AddVcpus(size_t first, const std::vector<NewVcpu>& vcpus);
  /// Makes those of them that are not made yet. Any one thread.
  Status MakeVcpus(size_t first, const std::vector<NewVcpu>& vcpus);
  /// Waits until those of them that were unplugged can be plugged again. Not the JS thread.
  void AwaitReset(size_t first, size_t end) const;
  /// The guest can start one that was made, and is not plugged, by INIT and SIPI.
  Status Plug(size_t vcpu);
  /// May be called for one that waits in an exit.
  Status Unplug(size_t vcpu);

  /// Releases every waiting exit with all ones; kAllEnded follows. True if nothing ever ran, so
  /// that nothing follows.
  bool Stop();

  std::vector<VmEvent> TakeEvents();
  /// Answers what vCPUs ask, see ExitMailbox::Serve. `answer(vcpu, const Access&)` is the value, or
  /// nothing if AnswerLate follows.
  template <class Answer>
  void Serve(Answer answer) {
    wake_pending_.store(false);
    const bool cut = mailbox_.Serve([&](size_t vcpu, Access* access) {
      const std::optional<uint32_t> value = answer(vcpu, *access);
      if (value.has_value()) access->value = *value;
      return value.has_value();
    });
    if (cut) Wake();
  }
  void AnswerLate(size_t vcpu, uint32_t value) { mailbox_.AnswerLate(vcpu, value); }

 private:
  Vm(const VmOptions& options, VmFds fds, std::shared_ptr<GuestMemory> memory,
     std::function<void()> wake);
  Status SetSlot(size_t slot, const Region& region) const;
  Status PlaceKvmPages(uint64_t tss_gpa) const;
  int SetKick(uint64_t gpa, const EventFd& kick, bool attached) const;
  void KeepClock();
  Status LoadBlobs(const std::vector<Blob>& blobs) const;

  void OnAccess(size_t vcpu, Space space, uint64_t address, uint8_t size_bytes, bool is_write,
                uint32_t* value) override;
  bool TryAccess(size_t vcpu, Space space, uint64_t address, uint8_t size_bytes, bool is_write,
                 uint32_t* value);
  void OnTripleFault(size_t vcpu) override;
  void OnFailure(size_t vcpu, const std::string& message) override;
  void OnParked(size_t vcpu, bool parked) override;
  void OnEnded(size_t vcpu) override;
  void Wake();

  const std::shared_ptr<GuestMemory> memory_;
  const std::function<void()> wake_;
  const Fd kvm_;
  const std::shared_ptr<const Fd> vm_;
  ExitBus bus_;
  ExitMailbox mailbox_;
  std::vector<std::shared_ptr<NativeDevice>> natives_;
  std::atomic<bool> wake_pending_{false};
  std::atomic<bool> booted_{false};

  std::mutex mutex_;  // guards the next six; held for a moment only
  std::vector<VmEvent> events_;
  bool paused_ = false;
  size_t thread_count_ = 0;  // of vCPUs; the next two count among them
  size_t parked_count_ = 0;
  size_t ended_count_ = 0;
  std::optional<uint64_t> paused_clock_ns_;

  std::vector<std::shared_ptr<FileWindow>> windows_;  // JS thread only: by slot; null if free
  /// JS thread only: by slot, the region that the guest has there; of 0 bytes where it has none.
  /// What KVM maps is unmapped after it, for the slot has a share.
  std::vector<Region> slots_;
  const size_t vcpus_max_;
  std::vector<kvm_msr_entry> msrs_;           // of every vCPU, since Boot
  std::vector<std::unique_ptr<Vcpu>> vcpus_;  // last: their threads use all of the above
};

}  // namespace vmm
