#include "vcpu.h"

#include <errno.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <array>
#include <charconv>
#include <cstring>
#include <string>

#include "abi.h"
#include "flexible.h"

namespace vmm {
namespace {

kvm_segment ToKvm(const Segment& segment) {
  kvm_segment out{};
  out.base = segment.base;
  out.limit = segment.limit;
  out.selector = segment.selector;
  out.type = segment.access & 0xf;
  out.s = (segment.access >> 4) & 1;
  out.dpl = (segment.access >> 5) & 3;
  out.present = (segment.access >> 7) & 1;
  out.avl = (segment.access >> 12) & 1;
  out.l = (segment.access >> 13) & 1;
  out.db = (segment.access >> 14) & 1;
  out.g = static_cast<uint8_t>(segment.access >> 15);
  return out;
}

std::string Hex(uint64_t value) {
  std::array<char, 16> digits{};
  const auto written = std::to_chars(digits.begin(), digits.end(), value, 16);
  return "0x" + std::string(digits.begin(), written.ptr);
}

}  // namespace

void Vcpu::Unmap::operator()(kvm_run* run) const { munmap(run, size_bytes); }

Status Vcpu::Create(int kvm_fd, int vm_fd, const BootPlan& plan) {
  const int index = static_cast<int>(index_);
  fd_ = Fd(ioctl(vm_fd, KVM_CREATE_VCPU, options_.apic_id));
  if (!fd_.ok()) return {errno, "ioctl(KVM_CREATE_VCPU)", index};

  const int run_bytes = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
  if (run_bytes < 0) return {errno, "ioctl(KVM_GET_VCPU_MMAP_SIZE)", index};
  const auto size_bytes = static_cast<size_t>(run_bytes);
  void* run = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (run == MAP_FAILED) return {errno, "mmap(kvm_run)", index};
  run_ = std::unique_ptr<kvm_run, Unmap>(static_cast<kvm_run*>(run), Unmap{size_bytes});

  const auto& leaves = plan.cpuid[index_];
  const abi::CpuidHeader header{static_cast<uint32_t>(leaves.size()), 0};
  Flexible<abi::CpuidHeader, kvm_cpuid_entry2> cpuid(header, leaves);
  if (ioctl(fd_.get(), abi::kSetCpuid2, cpuid.get()) < 0)
    return {errno, "ioctl(KVM_SET_CPUID2)", index};

  if (Status status = SetMsrs(plan.msrs); !status.ok()) return status;
  if (Status status = SetLapic(); !status.ok()) return status;
  // The others wait for INIT and SIPI, as after a reset.
  return index_ == 0 ? SetRegisters(plan.entry) : Status{};
}

Status Vcpu::SetRegisters(const EntryState& entry) {
  kvm_sregs sregs;
  if (ioctl(fd_.get(), KVM_GET_SREGS, &sregs) < 0) return {errno, "ioctl(KVM_GET_SREGS)", 0};
  sregs.cs = ToKvm(entry.code);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = ToKvm(entry.data);
  sregs.tr = ToKvm(entry.task);
  sregs.gdt.base = entry.gdt.base;
  sregs.gdt.limit = entry.gdt.limit;
  sregs.idt.base = entry.idt.base;
  sregs.idt.limit = entry.idt.limit;
  sregs.cr0 = entry.cr0;
  sregs.cr3 = entry.cr3;
  sregs.cr4 = entry.cr4;
  sregs.efer = entry.efer;
  if (ioctl(fd_.get(), KVM_SET_SREGS, &sregs) < 0) return {errno, "ioctl(KVM_SET_SREGS)", 0};

  kvm_regs regs{};
  regs.rip = entry.rip;
  regs.rsp = regs.rbp = entry.rsp;
  regs.rbx = entry.rbx;
  regs.rsi = entry.rsi;
  regs.rflags = 2;  // the one bit that is always set
  if (ioctl(fd_.get(), KVM_SET_REGS, &regs) < 0) return {errno, "ioctl(KVM_SET_REGS)", 0};

  kvm_fpu fpu{};
  fpu.fcw = 0x37f;  // as FNINIT leaves them
  fpu.mxcsr = 0x1f80;
  if (ioctl(fd_.get(), KVM_SET_FPU, &fpu) < 0) return {errno, "ioctl(KVM_SET_FPU)", 0};
  return {};
}

Status Vcpu::SetMsrs(const std::vector<kvm_msr_entry>& msrs) {
  const abi::MsrsHeader header{static_cast<uint32_t>(msrs.size()), 0};
  Flexible<abi::MsrsHeader, kvm_msr_entry> list(header, msrs);
  const int index = static_cast<int>(index_);
  const int set = ioctl(fd_.get(), abi::kSetMsrs, list.get());
  if (set < 0) return {errno, "ioctl(KVM_SET_MSRS)", index};
  // KVM stops at the first that it refuses.
  const bool all = static_cast<size_t>(set) == msrs.size();
  return all ? Status{} : Status{EINVAL, "ioctl(KVM_SET_MSRS)", index};
}

/// LINT0 as external interrupt and LINT1 as NMI, as firmware leaves them: a kernel without an
/// interrupt controller driver yet relies on it.
Status Vcpu::SetLapic() {
  constexpr size_t kLint0 = 0x350, kLint1 = 0x360;
  constexpr uint32_t kExtInt = 7 << 8, kNmi = 4 << 8, kMasked = 1 << 16;
  const int index = static_cast<int>(index_);
  kvm_lapic_state lapic;
  if (ioctl(fd_.get(), KVM_GET_LAPIC, &lapic) < 0) return {errno, "ioctl(KVM_GET_LAPIC)", index};
  const uint32_t lint0 = kExtInt, lint1 = kNmi | kMasked;
  std::memcpy(lapic.regs + kLint0, &lint0, sizeof(lint0));
  std::memcpy(lapic.regs + kLint1, &lint1, sizeof(lint1));
  if (ioctl(fd_.get(), KVM_SET_LAPIC, &lapic) < 0) return {errno, "ioctl(KVM_SET_LAPIC)", index};
  return {};
}

void Vcpu::Start() {
  thread_ = Thread("vcpu" + std::to_string(index_), [this] {
    PinToHostCpus();
    Loop();
  });
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
  nmi_.store(true);
  if (thread_.joinable()) thread_.Kick();
}

/// The store comes before the kick, and the thread clears immediate_exit before it loads the order:
/// so it sees the order, or KVM_RUN returns at once.
void Vcpu::Command(Order order) {
  if (!thread_.joinable()) return;
  order_.store(order);
  order_.notify_all();
  if (order == kRun) return;
  __atomic_store_n(&run_->immediate_exit, 1, __ATOMIC_SEQ_CST);
  thread_.Kick();
}

void Vcpu::Loop() {
  for (;;) {
    __atomic_store_n(&run_->immediate_exit, 0, __ATOMIC_SEQ_CST);
    const uint32_t order = order_.load();
    if (order == kEnd) break;
    if (order == kPark)
      ParkUntilOrdered();
    else if (dead_)
      order_.wait(kRun);
    else
      dead_ = !RunOnce();
  }
  owner_->OnEnded(index_);
}

void Vcpu::ParkUntilOrdered() {
  if (exit_unfinished_) CompleteExit();
  // A guest with a kvmclock learns that it was stopped, and does not blame itself for lost time.
  ioctl(fd_.get(), KVM_KVMCLOCK_CTRL, 0);
  owner_->OnParked(index_, true);
  order_.wait(kPark);
  owner_->OnParked(index_, false);
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
