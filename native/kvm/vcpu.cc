#include "vcpu.h"

#include <errno.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <array>
#include <charconv>
#include <cstring>
#include <string>
#include <system_error>

#include "abi.h"
#include "flexible.h"
#include "vcpu_state.h"

namespace vmm {
namespace {

std::string Hex(uint64_t value) {
  std::array<char, 16> digits{};
  const auto written = std::to_chars(digits.begin(), digits.end(), value, 16);
  return "0x" + std::string(digits.begin(), written.ptr);
}

}  // namespace

void Vcpu::Unmap::operator()(kvm_run* run) const { munmap(run, size_bytes); }

Status Vcpu::Make(int kvm_fd, int vm_fd, const std::vector<kvm_cpuid_entry2>& cpuid,
                  const std::vector<kvm_msr_entry>* msrs) {
  if (run_ != nullptr) return {};
  msrs_ = msrs;
  const int index = static_cast<int>(index_);
  // One that was made, but for the rest, is made no more than once.
  if (!fd_.ok()) fd_ = Fd(ioctl(vm_fd, KVM_CREATE_VCPU, options_.apic_id));
  if (!fd_.ok()) return {errno, "ioctl(KVM_CREATE_VCPU)", index};

  const abi::CpuidHeader header{static_cast<uint32_t>(cpuid.size()), 0};
  Flexible<abi::CpuidHeader, kvm_cpuid_entry2> leaves(header, cpuid);
  if (ioctl(fd_.get(), abi::kSetCpuid2, leaves.get()) < 0)
    return {errno, "ioctl(KVM_SET_CPUID2)", index};
  if (Status status = SetMsrs(fd_.get(), index, *msrs); !status.ok()) return status;
  if (Status status = SetLapicInputs(fd_.get(), index); !status.ok()) return status;

  const int run_bytes = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
  if (run_bytes < 0) return {errno, "ioctl(KVM_GET_VCPU_MMAP_SIZE)", index};
  const auto size_bytes = static_cast<size_t>(run_bytes);
  void* run = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (run == MAP_FAILED) return {errno, "mmap(kvm_run)", index};
  run_ = std::unique_ptr<kvm_run, Unmap>(static_cast<kvm_run*>(run), Unmap{size_bytes});
  return {};
}

Status Vcpu::Enter(const EntryState& entry) { return SetEntry(fd_.get(), entry); }

Status Vcpu::Plug(bool paused) {
  if (reset_.load()) return {EBUSY, "plug", static_cast<int>(index_)};
  const Order order = paused ? kPark : kRun;
  if (has_thread()) {
    Give(order);
  } else {
    order_.store(order);
    try {
      thread_ = Thread("vcpu" + std::to_string(index_), [this] {
        PinToHostCpus();
        Loop();
      });
    } catch (const std::system_error& error) {
      return {error.code().value(), "pthread_create(vcpu)", static_cast<int>(index_)};
    }
  }
  plugged_ = true;
  return {};
}

void Vcpu::Unplug() {
  if (!std::exchange(plugged_, false)) return;
  nmi_.store(false);
  reset_.store(true);
  Give(kOff);
}

void Vcpu::PinToHostCpus() const {
  if (options_.host_cpus.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const uint32_t cpu : options_.host_cpus)
    if (cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
  // They were there when the VM was created; without them it runs where it can.
  sched_setaffinity(0, sizeof(set), &set);
}

void Vcpu::Nmi() {
  if (!plugged_) return;
  nmi_.store(true);
  thread_.Kick();
}

void Vcpu::Stop() {
  if (has_thread()) Give(kEnd);
}

void Vcpu::Command(Order order) {
  if (plugged_) Give(order);
}

/// The store comes before the kick, and the thread clears immediate_exit before it loads the order:
/// so it sees the order, or KVM_RUN returns at once.
void Vcpu::Give(Order order) {
  const uint32_t count = order_.load() / kOrders;
  order_.store((count + 1) * kOrders + order);
  order_.notify_all();
  if (order == kRun) return;
  __atomic_store_n(&run_->immediate_exit, 1, __ATOMIC_SEQ_CST);
  thread_.Kick();
}

void Vcpu::Loop() {
  for (;;) {
    __atomic_store_n(&run_->immediate_exit, 0, __ATOMIC_SEQ_CST);
    if (reset_.load()) Reset();
    const uint32_t given = order_.load();
    if (given % kOrders == kEnd) break;
    if (given % kOrders != kRun)
      Rest(given);
    else if (dead_)
      order_.wait(given);
    else
      dead_ = !RunOnce();
  }
  owner_->OnEnded(index_);
}

void Vcpu::Rest(uint32_t given) {
  if (exit_unfinished_) CompleteExit();
  // A guest with a kvmclock learns that it was stopped, and does not blame itself for lost time.
  if (given % kOrders == kPark) ioctl(fd_.get(), KVM_KVMCLOCK_CTRL, 0);
  owner_->OnParked(index_, true);
  order_.wait(given);
  owner_->OnParked(index_, false);
}

/// One that could not go on can again.
void Vcpu::Reset() {
  if (exit_unfinished_) CompleteExit();
  const Status status = ResetToPowerOn(fd_.get(), static_cast<int>(index_), *msrs_);
  dead_ = !status.ok();
  if (dead_)
    Fail("It could not be reset: " + std::string(status.call) +
         " failed: " + std::string(strerrorname_np(status.error)));
  reset_.store(false);
  reset_.notify_all();
}

void Vcpu::CompleteExit() {
  __atomic_store_n(&run_->immediate_exit, 1, __ATOMIC_SEQ_CST);
  // One instruction can have several exits: an access to two pages has.
  while (!dead_ && ioctl(fd_.get(), KVM_RUN, 0) == 0) dead_ = !HandleExit();
  exit_unfinished_ = false;
}

bool Vcpu::RunOnce() {
  exit_unfinished_ = false;
  if (nmi_.exchange(false)) ioctl(fd_.get(), KVM_NMI, 0);
  if (ioctl(fd_.get(), KVM_RUN, 0) == 0) return HandleExit();
  if (errno == EINTR || errno == EAGAIN) return true;
  Fail("KVM_RUN failed: " + std::string(strerrorname_np(errno)));
  return false;
}

bool Vcpu::HandleExit() {
  switch (run_->exit_reason) {
    case KVM_EXIT_IO:
      HandleIo();
      return true;
    case KVM_EXIT_MMIO:
      HandleMmio();
      return true;
    case KVM_EXIT_INTR:
      return true;
    case KVM_EXIT_SHUTDOWN:
      owner_->OnTripleFault(index_);
      return false;
    case KVM_EXIT_FAIL_ENTRY:
      Fail("The host CPU refused to enter the guest, reason " +
           Hex(run_->fail_entry.hardware_entry_failure_reason));
      return false;
    case KVM_EXIT_INTERNAL_ERROR:
      Fail("KVM could not go on, internal error " + std::to_string(run_->internal.suberror));
      return false;
    default:
      Fail("KVM exit " + std::to_string(run_->exit_reason) + " is not known");
      return false;
  }
}

/// `count` accesses of one port: a string instruction makes many in one exit.
void Vcpu::HandleIo() {
  exit_unfinished_ = true;
  const auto io = run_->io;
  auto* data = reinterpret_cast<std::byte*>(run_.get()) + io.data_offset;
  for (uint32_t i = 0; i < io.count; ++i)
    Access(Space::kPort, io.port, data + size_t{i} * io.size, io.size,
           io.direction == KVM_EXIT_IO_OUT);
}

void Vcpu::HandleMmio() {
  exit_unfinished_ = true;
  auto& mmio = run_->mmio;
  Access(Space::kMmio, mmio.phys_addr, reinterpret_cast<std::byte*>(mmio.data), mmio.len,
         mmio.is_write != 0);
}

/// Hands on accesses of 1, 2 or 4 bytes. Eight bytes go as two of four, low first (VIRTIO 1.2
/// §4.1.3.1 has drivers do the same); odd widths, which only string moves make, byte by byte.
void Vcpu::Access(Space space, uint64_t address, std::byte* data, size_t size_bytes,
                  bool is_write) {
  const size_t step = size_bytes % 4 == 0 ? 4 : (size_bytes == 2 ? 2 : 1);
  for (size_t done = 0; done < size_bytes; done += step) {
    uint32_t value = 0;
    std::memcpy(&value, data + done, step);
    owner_->OnAccess(index_, space, address + (space == Space::kMmio ? done : 0),
                     static_cast<uint8_t>(step), is_write, &value);
    if (!is_write) std::memcpy(data + done, &value, step);
  }
}

void Vcpu::Fail(const std::string& message) {
  kvm_regs regs{};
  ioctl(fd_.get(), KVM_GET_REGS, &regs);
  owner_->OnFailure(index_, message + ", rip " + Hex(regs.rip));
}

}  // namespace vmm
