#include "vcpu_state.h"

#include <errno.h>
#include <sys/ioctl.h>

#include <array>
#include <cstddef>
#include <cstring>

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

/// What an interrupt, an exception or an NMI has left pending.
Status ForgetEvents(int vcpu_fd, int index) {
  kvm_vcpu_events events;
  if (ioctl(vcpu_fd, KVM_GET_VCPU_EVENTS, &events) < 0)
    return {errno, "ioctl(KVM_GET_VCPU_EVENTS)", index};
  kvm_vcpu_events none{};
  none.flags = events.flags;  // the parts that this KVM knows
  if (ioctl(vcpu_fd, KVM_SET_VCPU_EVENTS, &none) < 0)
    return {errno, "ioctl(KVM_SET_VCPU_EVENTS)", index};
  return {};
}

/// SDM vol. 3 table 10-1. The local APIC is back in xAPIC mode, which INIT would not do.
Status ResetSystemRegisters(int vcpu_fd, int index) {
  constexpr uint64_t kApicEnabled = 0xfee00000 | 1 << 11;
  constexpr uint32_t kLimit = 0xffff;
  kvm_sregs sregs{};
  sregs.cs = ToKvm({0xf000, 0xffff0000, kLimit, 0x9b});
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = ToKvm({0, 0, kLimit, 0x93});
  sregs.tr = ToKvm({0, 0, kLimit, 0x8b});
  sregs.ldt = ToKvm({0, 0, kLimit, 0x82});
  sregs.gdt.limit = sregs.idt.limit = kLimit;
  sregs.cr0 = 0x60000010;
  sregs.apic_base = kApicEnabled;
  if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) < 0) return {errno, "ioctl(KVM_SET_SREGS)", index};
  return {};
}

Status SetFpu(int vcpu_fd, int index) {
  kvm_fpu fpu{};
  fpu.fcw = 0x37f;  // as FNINIT leaves them
  fpu.mxcsr = 0x1f80;
  if (ioctl(vcpu_fd, KVM_SET_FPU, &fpu) < 0) return {errno, "ioctl(KVM_SET_FPU)", index};
  return {};
}

/// Of all that XSAVE knows, tiles included, which are larger than struct kvm_xsave.
Status ResetExtendedState(int vcpu_fd, int index) {
  constexpr size_t kBytesMax = size_t{16} * 1024;
  alignas(64) std::array<std::byte, kBytesMax> initial{};  // every part is in its initial state
  if (ioctl(vcpu_fd, abi::kSetXsave, initial.data()) < 0)
    return {errno, "ioctl(KVM_SET_XSAVE)", index};
  kvm_xcrs xcrs{};
  xcrs.nr_xcrs = 1;
  xcrs.xcrs[0].value = 1;
  // EINVAL: a host without XSAVE has no such register.
  if (ioctl(vcpu_fd, KVM_SET_XCRS, &xcrs) < 0 && errno != EINVAL)
    return {errno, "ioctl(KVM_SET_XCRS)", index};
  return SetFpu(vcpu_fd, index);
}

/// Its timer is stopped, which would go on for a vCPU that never runs, and nothing is pending. Its
/// id is that of xAPIC mode, which KVM of Linux 6.1 does not see to when it leaves x2APIC mode.
Status ResetLapic(int vcpu_fd, int index, uint32_t apic_id) {
  constexpr size_t kId = 0x20, kVersion = 0x30, kFormat = 0xe0, kSpurious = 0xf0;
  constexpr std::array<size_t, 7> kVectors{0x2f0, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370};
  kvm_lapic_state now;
  if (ioctl(vcpu_fd, KVM_GET_LAPIC, &now) < 0) return {errno, "ioctl(KVM_GET_LAPIC)", index};
  kvm_lapic_state lapic{};
  const auto set = [&](size_t at, uint32_t value) {
    std::memcpy(lapic.regs + at, &value, sizeof(value));
  };
  std::memcpy(lapic.regs + kVersion, now.regs + kVersion, sizeof(uint32_t));
  set(kId, apic_id << 24);
  set(kFormat, ~uint32_t{0});
  set(kSpurious, 0xff);
  for (const size_t at : kVectors) set(at, 1 << 16);  // masked
  if (ioctl(vcpu_fd, KVM_SET_LAPIC, &lapic) < 0) return {errno, "ioctl(KVM_SET_LAPIC)", index};
  return SetLapicInputs(vcpu_fd, index);
}

/// MSRs that INIT leaves and that act, or wait, without the guest: above all the pages of guest RAM
/// that KVM writes clocks and flags to. A KVM that lacks one refuses it, and it need not be reset.
void ResetOtherMsrs(int vcpu_fd, int index) {
  constexpr std::array<std::pair<uint32_t, uint64_t>, 14> kResets{{
      {0x11, 0},                    // KVM: wall clock, system time
      {0x12, 0},                    //
      {0x4b564d00, 0},              // the same, since 2010
      {0x4b564d01, 0},              //
      {0x4b564d02, 0},              // asynchronous page faults
      {0x4b564d03, 0},              // steal time
      {0x4b564d04, 0},              // end of interrupt
      {0x4b564d05, 1},              // polling in hlt
      {0x6e0, 0},                   // TSC deadline
      {0x48, 0},                    // speculation control
      {0x1d9, 0},                   // debug control
      {0x38f, 0},                   // performance counters
      {0xda0, 0},                   // supervisor states of XSAVE
      {0x277, 0x0007040600070406},  // page attributes
  }};
  for (const auto& [msr, value] : kResets) {
    kvm_msr_entry entry{};
    entry.index = msr;
    entry.data = value;
    static_cast<void>(SetMsrs(vcpu_fd, index, {entry}));
  }
}

}  // namespace

Status SetMsrs(int vcpu_fd, int index, const std::vector<kvm_msr_entry>& msrs) {
  const abi::MsrsHeader header{static_cast<uint32_t>(msrs.size()), 0};
  Flexible<abi::MsrsHeader, kvm_msr_entry> list(header, msrs);
  const int set = ioctl(vcpu_fd, abi::kSetMsrs, list.get());
  if (set < 0) return {errno, "ioctl(KVM_SET_MSRS)", index};
  const bool all = static_cast<size_t>(set) == msrs.size();
  return all ? Status{} : Status{EINVAL, "ioctl(KVM_SET_MSRS)", index};
}

Status SetLapicInputs(int vcpu_fd, int index) {
  constexpr size_t kLint0 = 0x350, kLint1 = 0x360;
  constexpr uint32_t kExtInt = 7 << 8, kNmi = 4 << 8, kMasked = 1 << 16;
  kvm_lapic_state lapic;
  if (ioctl(vcpu_fd, KVM_GET_LAPIC, &lapic) < 0) return {errno, "ioctl(KVM_GET_LAPIC)", index};
  const uint32_t lint0 = kExtInt, lint1 = kNmi | kMasked;
  std::memcpy(lapic.regs + kLint0, &lint0, sizeof(lint0));
  std::memcpy(lapic.regs + kLint1, &lint1, sizeof(lint1));
  if (ioctl(vcpu_fd, KVM_SET_LAPIC, &lapic) < 0) return {errno, "ioctl(KVM_SET_LAPIC)", index};
  return {};
}

Status SetEntry(int vcpu_fd, const EntryState& entry) {
  kvm_sregs sregs;
  if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) < 0) return {errno, "ioctl(KVM_GET_SREGS)", 0};
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
  if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) < 0) return {errno, "ioctl(KVM_SET_SREGS)", 0};

  kvm_regs regs{};
  regs.rip = entry.rip;
  regs.rsp = regs.rbp = entry.rsp;
  regs.rbx = entry.rbx;
  regs.rsi = entry.rsi;
  regs.rflags = 2;  // the one bit that is always set
  if (ioctl(vcpu_fd, KVM_SET_REGS, &regs) < 0) return {errno, "ioctl(KVM_SET_REGS)", 0};
  return SetFpu(vcpu_fd, 0);
}

/// All of it by the thread of the vCPU, or before there is one.
Status ResetToPowerOn(int vcpu_fd, int index, uint32_t apic_id,
                      const std::vector<kvm_msr_entry>& msrs) {
  Status status = ForgetEvents(vcpu_fd, index);
  kvm_mp_state waiting{KVM_MP_STATE_UNINITIALIZED};
  if (status.ok() && ioctl(vcpu_fd, KVM_SET_MP_STATE, &waiting) < 0)
    status = {errno, "ioctl(KVM_SET_MP_STATE)", index};
  if (status.ok()) status = ResetSystemRegisters(vcpu_fd, index);
  if (status.ok()) status = ResetExtendedState(vcpu_fd, index);
  if (status.ok()) status = ResetLapic(vcpu_fd, index, apic_id);
  ResetOtherMsrs(vcpu_fd, index);
  if (status.ok()) status = SetMsrs(vcpu_fd, index, msrs);
  return status;
}

}  // namespace vmm
