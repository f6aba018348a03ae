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
class Vcpu {
 public:
  Vcpu(size_t index, VcpuOptions options, VcpuOwner* owner)
      : index_(index), options_(std::move(options)), owner_(owner) {}

  /// Makes the vCPU and its register state; its thread does not run yet.
  Status Create(int kvm_fd, int vm_fd, const BootPlan& plan);
  /// Starts the thread, and with it the guest.
  void Start();
  void Pause() { Command(kPark); }
  void Resume() { Command(kRun); }
  void Stop() { Command(kEnd); }
  /// Injects an NMI when it next runs.
  void Nmi();
  /// After OnEnded, or when it is sure to come.
  void Join() { thread_.Join(); }

 private:
  enum Order : uint32_t { kPark, kRun, kEnd };
  struct Unmap {
    size_t size_bytes;
    void operator()(kvm_run* run) const;
  };

  void Command(Order order);
  void Loop();
  void ParkUntilOrdered();
  /// One KVM_RUN and what it returned for. False if the vCPU cannot go on.
  bool RunOnce();
  /// KVM finishes a port or MMIO access only when it is entered again; nothing else runs.
  void CompleteExit();
  bool HandleExit();
  void HandleIo();
  void HandleMmio();
  void Access(Space space, uint64_t address, std::byte* data, size_t size_bytes, bool is_write);
  void Fail(const std::string& message);
  Status SetRegisters(const EntryState& entry);
  Status SetMsrs(const std::vector<kvm_msr_entry>& msrs);
  Status SetLapic();

  void PinToHostCpus() const;

  const size_t index_;
  const VcpuOptions options_;
  VcpuOwner* const owner_;
  Fd fd_;
  std::unique_ptr<kvm_run, Unmap> run_;
  std::atomic<uint32_t> order_{kRun};
  std::atomic<bool> nmi_{false};
  // Its own thread's only:
  bool exit_unfinished_ = false;
  bool dead_ = false;
  Thread thread_;
};

}  // namespace vmm
