#pragma once
#include <linux/kvm.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../base/fd.h"
#include "../base/status.h"
#include "../base/thread.h"
#include "boot_plan.h"
#include "exit_bus.h"

namespace vmm {

struct VcpuOptions {
  /// KVM gives a vCPU's local APIC the id that the vCPU is made with.
  uint32_t apic_id;
  /// Where its thread may run; anywhere if empty.
  std::vector<uint32_t> host_cpus;
};

/// What a vCPU tells its VM. Called on the vCPU's own thread; none may block.
class VcpuOwner {
 public:
  virtual ~VcpuOwner() = default;
  /// A port or MMIO access of 1, 2 or 4 bytes.
  virtual void OnAccess(size_t vcpu, Space space, uint64_t address, uint8_t size_bytes,
                        bool is_write, uint32_t* value) = 0;
  virtual void OnTripleFault(size_t vcpu) = 0;
  /// It cannot go on, and never runs guest code again.
  virtual void OnFailure(size_t vcpu, const std::string& message) = 0;
  /// True: it has finished its exit and runs no guest code. False: it is about to run again.
  virtual void OnParked(size_t vcpu, bool parked) = 0;
  /// The last call that its thread makes.
  virtual void OnEnded(size_t vcpu) = 0;
};

/// One vCPU and its thread. The commands come from one thread, the JS thread, and never wait.
///
/// KVM never gives up a vCPU that it made, nor lets its id be used again. So an unplugged one keeps
/// its descriptor and its thread, which sleeps, and is the same again when it is plugged.
class Vcpu {
 public:
  Vcpu(size_t index, VcpuOptions options, VcpuOwner* owner)
      : index_(index), options_(std::move(options)), owner_(owner) {}

  /// Makes the vCPU, which waits for INIT and SIPI as after a reset. Nothing if that was done. Not
  /// the JS thread's, which gives no command until it is done. `msrs` outlives the vCPU.
  Status Make(int kvm_fd, int vm_fd, const std::vector<kvm_cpuid_entry2>& cpuid,
              const std::vector<kvm_msr_entry>* msrs);
  /// The boot vCPU starts here. As Make.
  Status Enter(const EntryState& entry);

  bool made() const { return run_ != nullptr; }
  bool plugged() const { return plugged_; }
  bool has_thread() const { return thread_.joinable(); }
  /// Has the guest have it, from now on or after the pause. Starts its thread if it has none.
  /// EBUSY before AwaitReset.
  Status Plug(bool paused);
  /// Takes it from the guest: OnParked follows.
  void Unplug();
  /// Any thread but the JS thread. After Unplug: until all that the guest made of it is forgotten.
  void AwaitReset() const { reset_.wait(true); }
  /// These are ignored by one that is not plugged.
  void Pause() { Command(kPark); }
  void Resume() { Command(kRun); }
  /// Injects an NMI when it next runs.
  void Nmi();
  void Stop();
  /// After OnEnded, or when it is sure to come.
  void Join() { thread_.Join(); }

 private:
  enum Order : uint32_t { kPark, kOff, kRun, kEnd };
  static constexpr uint32_t kOrders = 4;
  struct Unmap {
    size_t size_bytes;
    void operator()(kvm_run* run) const;
  };

  void Command(Order order);
  void Give(Order order);
  void Loop();
  /// Until there is another order than the one that was `given`.
  void Rest(uint32_t given);
  void Reset();
  /// One KVM_RUN and what it returned for. False if the vCPU cannot go on.
  bool RunOnce();
  /// KVM finishes a port or MMIO access only when it is entered again; nothing else runs.
  void CompleteExit();
  bool HandleExit();
  void HandleIo();
  void HandleMmio();
  void Access(Space space, uint64_t address, std::byte* data, size_t size_bytes, bool is_write);
  void Fail(const std::string& message);
  void PinToHostCpus() const;

  const size_t index_;
  const VcpuOptions options_;
  VcpuOwner* const owner_;
  Fd fd_;
  std::unique_ptr<kvm_run, Unmap> run_;
  const std::vector<kvm_msr_entry>* msrs_ = nullptr;
  bool plugged_ = false;  // JS thread only
  /// The last order in the low bits, and above them a count, so that a repeated one is another.
  std::atomic<uint32_t> order_{kRun};
  std::atomic<bool> nmi_{false};
  /// It was unplugged, and is not as new yet.
  std::atomic<bool> reset_{false};
  // Its own thread's only:
  bool exit_unfinished_ = false;
  bool dead_ = false;
  Thread thread_;
};

}  // namespace vmm
