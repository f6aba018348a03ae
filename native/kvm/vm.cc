#include "vm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <utility>

#include "../sys/host_cpus.h"
#include "memory_slot.h"

namespace vmm {
namespace {

constexpr uint64_t kPageBytes = 4096;

/// A PCI bus has 31 devices.
constexpr size_t kWindowsMax = 31;

/// Where one CPU is all we get, spinning only keeps the other side from answering.
ExitMailbox::SpinTimes Spin() {
  return UsableCpus() > 1 ? ExitMailbox::SpinTimes{} : ExitMailbox::SpinTimes{0, 0};
}

}  // namespace

Status Vm::Create(const VmOptions& options, VmFds fds, std::shared_ptr<GuestMemory> memory,
                  std::function<void()> wake, std::unique_ptr<Vm>* out) {
  if (options.vcpus.empty() || options.vcpus.size() > options.vcpus_max ||
      options.vcpus_max > ExitMailbox::kVcpusMax)
    return {EINVAL, "vcpus"};
  std::unique_ptr<Vm> vm(new Vm(options, std::move(fds), std::move(memory), std::move(wake)));
  Status status = vm->PlaceKvmPages(options.tss_gpa);
  if (status.ok()) status = vm->MapMemory();
  if (status.ok()) *out = std::move(vm);
  return status;
}

Vm::Vm(const VmOptions& options, VmFds fds, std::shared_ptr<GuestMemory> memory,
       std::function<void()> wake)
    : memory_(std::move(memory)),
      wake_(std::move(wake)),
      kvm_(std::move(fds.kvm)),
      vm_(std::make_shared<const Fd>(std::move(fds.vm))),
      bus_(options.vcpus_max),
      mailbox_(options.vcpus.size(), Spin()),
      vcpus_max_(options.vcpus_max) {
  vcpus_.reserve(vcpus_max_);  // so that none moves when there are more
  for (size_t i = 0; i < options.vcpus.size(); ++i)
    vcpus_.push_back(std::make_unique<Vcpu>(i, options.vcpus[i], static_cast<VcpuOwner*>(this)));
}

Vm::~Vm() {
  Stop();
  for (auto& vcpu : vcpus_) vcpu->Join();
}

Status Vm::PlaceKvmPages(uint64_t tss_gpa) const {
  const uint64_t identity_map_gpa = tss_gpa + 3 * kPageBytes;
  if (ioctl(vm_->get(), KVM_SET_IDENTITY_MAP_ADDR, &identity_map_gpa) < 0)
    return {errno, "ioctl(KVM_SET_IDENTITY_MAP_ADDR)"};
  if (ioctl(vm_->get(), KVM_SET_TSS_ADDR, tss_gpa) < 0) return {errno, "ioctl(KVM_SET_TSS_ADDR)"};
  return {};
}

Status Vm::MapMemory() {
  const auto snapshot = memory_->Snapshot();
  const auto holds = [](const std::vector<Region>& regions, const Region& wanted) {
    return std::any_of(regions.begin(), regions.end(),
                       [&](const Region& region) { return region.host == wanted.host; });
  };
  // First what goes: something else may come to its place.
  for (size_t slot = 0; slot < slots_.size(); ++slot) {
    const Region& had = slots_[slot];
    if (had.size_bytes == 0 || holds(snapshot->all(), had)) continue;
    const Region none{had.gpa, 0, nullptr};
    if (Status status = SetSlot(slot, none); !status.ok()) return status;
    slots_[slot] = none;
  }
  for (const Region& region : snapshot->all()) {
    if (holds(slots_, region)) continue;
    size_t slot = 0;
    while (slot < slots_.size() && slots_[slot].size_bytes != 0) ++slot;
    if (Status status = SetSlot(slot, region); !status.ok()) return status;
    if (slot == slots_.size()) slots_.emplace_back();
    slots_[slot] = region;
  }
  return {};
}

/// A region of 0 bytes empties the slot.
Status Vm::SetSlot(size_t slot, const Region& region) const {
  const int rc = SetMemorySlot(vm_->get(), static_cast<uint32_t>(slot), region);
  if (rc == 0) return {};
  return {-rc, "ioctl(KVM_SET_USER_MEMORY_REGION)", static_cast<int>(slot)};
}

int Vm::AttachWindow(uint64_t gpa, std::shared_ptr<FileWindow> window) {
  DetachWindow(*window);
  const auto free = std::find(windows_.begin(), windows_.end(), nullptr);
  const auto index = static_cast<size_t>(free - windows_.begin());
  if (index == kWindowsMax) return -ENOSPC;
  const Region region{gpa, window->size_bytes(), {window, window->host()}};
  if (const Status status = SetSlot(kWindowSlots + index, region); !status.ok())
    return -status.error;
  if (free == windows_.end()) windows_.emplace_back();
  windows_[index] = std::move(window);
  return 0;
}

void Vm::DetachWindow(const FileWindow& window) {
  for (size_t i = 0; i < windows_.size(); ++i) {
    if (windows_[i].get() != &window) continue;
    SetSlot(kWindowSlots + i, Region{});
    windows_[i] = nullptr;
  }
}

int Vm::AddNative(Space space, uint64_t base, uint64_t size_bytes,
                  std::shared_ptr<NativeDevice> device) {
  const int rc = bus_.Claim(space, {base, size_bytes, device.get(), 0});
  // It stays, for a vCPU may be in it still; one that moves is the same.
  if (rc == 0 && std::find(natives_.begin(), natives_.end(), device) == natives_.end())
    natives_.push_back(std::move(device));
  return rc;
}

int Vm::TscKhz() const {
  const int khz = ioctl(vm_->get(), KVM_GET_TSC_KHZ, 0);
  return khz < 0 ? -errno : khz;
}

int Vm::SetKick(uint64_t gpa, const EventFd& kick, bool attached) const {
  kvm_ioeventfd ioeventfd{};  // of length 0: any width, and the quickest way on Intel
  ioeventfd.addr = gpa;
  ioeventfd.fd = kick.get();
  ioeventfd.flags = attached ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN;
  return ioctl(vm_->get(), KVM_IOEVENTFD, &ioeventfd) < 0 ? -errno : 0;
}

Status Vm::Boot(const BootPlan& plan) {
  if (plan.cpuid.size() != vcpus_.size()) return {EINVAL, "cpuid"};
  msrs_ = plan.msrs;
  Status status = LoadBlobs(plan.blobs);
  for (size_t i = 0; status.ok() && i < vcpus_.size(); ++i)
    status = vcpus_[i]->Make(kvm_.get(), vm_->get(), plan.cpuid[i], &msrs_);
  if (status.ok()) status = vcpus_.front()->Enter(plan.entry);
  booted_.store(status.ok());
  return status;
}

Status Vm::LoadBlobs(const std::vector<Blob>& blobs) const {
  for (size_t i = 0; i < blobs.size(); ++i) {
    const Blob& blob = blobs[i];
    const bool file = blob.fd >= 0;
    const int rc = file ? memory_->Load(blob.gpa, blob.fd, blob.offset, blob.len)
                        : memory_->CopyIn(blob.gpa, blob.bytes.data(), blob.bytes.size());
    if (rc < 0) return {-rc, file ? "pread(blob)" : "copy(blob)", static_cast<int>(i)};
  }
  return {};
}

Status Vm::Run() {
  Status status;
  for (size_t i = 0; status.ok() && i < vcpus_.size(); ++i) status = Plug(i);
  return status;
}

void Vm::Pause() {
  {
    const std::lock_guard lock(mutex_);
    paused_ = true;
    if (parked_count_ == thread_count_) KeepClock();
  }
  for (auto& vcpu : vcpus_) vcpu->Pause();
}

bool Vm::AllParked() {
  const std::lock_guard lock(mutex_);
  return parked_count_ == thread_count_;
}

/// The first time of a pause counts: a vCPU that is plugged meanwhile parks anew.
void Vm::KeepClock() {
  kvm_clock_data clock{};
  if (!paused_clock_ns_.has_value() && ioctl(vm_->get(), KVM_GET_CLOCK, &clock) == 0)
    paused_clock_ns_ = clock.clock;
}

void Vm::Resume() {
  {
    const std::lock_guard lock(mutex_);
    paused_ = false;
    if (paused_clock_ns_.has_value()) {
      kvm_clock_data clock{};
      clock.clock = *std::exchange(paused_clock_ns_, std::nullopt);
      ioctl(vm_->get(), KVM_SET_CLOCK, &clock);
    }
  }
  for (auto& vcpu : vcpus_) vcpu->Resume();
}

void Vm::Nmi() {
  for (auto& vcpu : vcpus_) vcpu->Nmi();
}

int Vm::AddVcpus(size_t first, const std::vector<NewVcpu>& vcpus) {
  if (first > vcpus_.size() || vcpus.size() > vcpus_max_ - first) return -EINVAL;
  for (size_t i = vcpus_.size(); i < first + vcpus.size(); ++i)
    vcpus_.push_back(
        std::make_unique<Vcpu>(i, vcpus[i - first].options, static_cast<VcpuOwner*>(this)));
  return 0;
}

Status Vm::MakeVcpus(size_t first, const std::vector<NewVcpu>& vcpus) {
  Status status;
  for (size_t i = 0; status.ok() && i < vcpus.size(); ++i)
    status = vcpus_[first + i]->Make(kvm_.get(), vm_->get(), vcpus[i].cpuid, &msrs_);
  return status;
}

void Vm::AwaitReset(size_t first, size_t end) const {
  for (size_t i = first; i < end; ++i) vcpus_[i]->AwaitReset();
}

Status Vm::Plug(size_t index) {
  if (index >= vcpus_.size() || !vcpus_[index]->made() || vcpus_[index]->plugged())
    return {EINVAL, "plug", static_cast<int>(index)};
  Vcpu& vcpu = *vcpus_[index];
  mailbox_.RaiseVcpus(vcpus_.size());
  const bool is_new = !vcpu.has_thread();
  bool paused = false;
  {
    const std::lock_guard lock(mutex_);
    paused = paused_;
    if (is_new) ++thread_count_;
  }
  const Status status = vcpu.Plug(paused);
  if (!status.ok()) {
    const std::lock_guard lock(mutex_);
    --thread_count_;
  }
  return status;
}

Status Vm::Unplug(size_t index) {
  if (index >= vcpus_.size()) return {EINVAL, "unplug", static_cast<int>(index)};
  vcpus_[index]->Unplug();
  return {};
}

bool Vm::Stop() {
  mailbox_.Close();
  for (auto& vcpu : vcpus_) vcpu->Stop();
  const std::lock_guard lock(mutex_);
  return thread_count_ == 0;
}

std::vector<VmEvent> Vm::TakeEvents() {
  const std::lock_guard lock(mutex_);
  return std::exchange(events_, {});
}

/// An access that no range holds wholly is made byte by byte, as a bus would; what nobody claims
/// reads all ones.
void Vm::OnAccess(size_t vcpu, Space space, uint64_t address, uint8_t size_bytes, bool is_write,
                  uint32_t* value) {
  if (TryAccess(vcpu, space, address, size_bytes, is_write, value)) return;
  uint32_t answer = 0;
  for (uint8_t i = 0; i < size_bytes; ++i) {
    uint32_t byte = (*value >> (8 * i)) & 0xff;
    const bool found = TryAccess(vcpu, space, address + i, 1, is_write, &byte);
    answer |= (found ? byte & 0xff : 0xff) << (8 * i);
  }
  *value = answer;
}

bool Vm::TryAccess(size_t vcpu, Space space, uint64_t address, uint8_t size_bytes, bool is_write,
                   uint32_t* value) {
  // Asked outside the visit: an answer may take seconds, and old tables would pile up.
  std::optional<Access> asked;
  const auto visit = [&](const BusRange& range, uint32_t offset) {
    if (range.native == nullptr)
      asked = Access{range.handler, offset, *value, size_bytes, is_write};
    else if (is_write)
      range.native->Write(offset, size_bytes, *value);
    else
      *value = range.native->Read(offset, size_bytes);
  };
  if (!bus_.Find(vcpu, space, address, size_bytes, visit)) return false;
  if (!asked.has_value()) return true;
  mailbox_.Ask(vcpu, &*asked, [this] { Wake(); });
  *value = asked->value;
  return true;
}

void Vm::OnTripleFault(size_t vcpu) {
  {
    const std::lock_guard lock(mutex_);
    events_.push_back({VmEvent::Kind::kTripleFault, vcpu, ""});
  }
  Wake();
}

void Vm::OnFailure(size_t vcpu, const std::string& message) {
  {
    const std::lock_guard lock(mutex_);
    events_.push_back({VmEvent::Kind::kVcpuFailure, vcpu, message});
  }
  Wake();
}

/// An unplugged vCPU counts as parked, pause or not.
void Vm::OnParked(size_t vcpu, bool parked) {
  {
    const std::lock_guard lock(mutex_);
    if (!parked) {
      --parked_count_;
      return;
    }
    if (++parked_count_ < thread_count_ || !paused_) return;
    KeepClock();
    events_.push_back({VmEvent::Kind::kAllParked, vcpu, ""});
  }
  Wake();
}

void Vm::OnEnded(size_t vcpu) {
  {
    const std::lock_guard lock(mutex_);
    if (++ended_count_ < thread_count_) return;
    events_.push_back({VmEvent::Kind::kAllEnded, vcpu, ""});
  }
  Wake();
}

/// One call for many reasons: the flag is lowered before the JS thread looks, so none is lost.
void Vm::Wake() {
  if (!wake_pending_.exchange(true)) wake_();
}

}  // namespace vmm
