#include "boot_plan_args.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include <cstring>

#include "../base/fd.h"
#include "../kvm/abi.h"
#include "../kvm/flexible.h"
#include "args.h"
#include "sys_error.h"

namespace vmm {
namespace {

Blob ToBlob(Napi::Object from) {
  Blob blob{};
  blob.gpa = ToU64(from.Get("gpa"), "blob.gpa");
  if (from.Has("fd")) {
    blob.fd = ToFd(from.Get("fd"), "blob.fd");
    blob.offset = ToU64(from.Get("offset"), "blob.offset");
    blob.len = ToU64(from.Get("length"), "blob.length");
    return blob;
  }
  blob.fd = -1;
  const Napi::Uint8Array bytes = ToBytes(from.Get("bytes"), "blob.bytes");
  blob.bytes.resize(bytes.ByteLength());
  std::memcpy(blob.bytes.data(), bytes.Data(), bytes.ByteLength());
  return blob;
}

kvm_cpuid_entry2 ToCpuidEntry(Napi::Object from) {
  kvm_cpuid_entry2 entry{};
  entry.function = ToUint<uint32_t>(from.Get("function"), "cpuid.function");
  entry.index = ToUint<uint32_t>(from.Get("index"), "cpuid.index");
  entry.flags = ToUint<uint32_t>(from.Get("flags"), "cpuid.flags");
  entry.eax = ToUint<uint32_t>(from.Get("eax"), "cpuid.eax");
  entry.ebx = ToUint<uint32_t>(from.Get("ebx"), "cpuid.ebx");
  entry.ecx = ToUint<uint32_t>(from.Get("ecx"), "cpuid.ecx");
  entry.edx = ToUint<uint32_t>(from.Get("edx"), "cpuid.edx");
  return entry;
}

Segment ToSegment(Napi::Object from) {
  return {ToUint<uint16_t>(from.Get("selector"), "segment.selector"),
          ToU64(from.Get("base"), "segment.base"),
          ToUint<uint32_t>(from.Get("limit"), "segment.limit"),
          ToUint<uint16_t>(from.Get("access"), "segment.access")};
}

TableRegister ToTableRegister(Napi::Object from) {
  return {ToU64(from.Get("base"), "table.base"),
          ToUint<uint16_t>(from.Get("limit"), "table.limit")};
}

EntryState ToEntryState(Napi::Object from) {
  const auto number = [&](const char* name) { return ToU64(from.Get(name), name); };
  const auto object = [&](const char* name) { return ToObject(from.Get(name), name); };
  return {number("rip"),
          number("rsp"),
          number("rbx"),
          number("rsi"),
          number("cr0"),
          number("cr3"),
          number("cr4"),
          number("efer"),
          ToTableRegister(object("gdt")),
          ToTableRegister(object("idt")),
          ToSegment(object("code")),
          ToSegment(object("data")),
          ToSegment(object("task"))};
}

kvm_msr_entry ToMsr(Napi::Object from) {
  kvm_msr_entry msr{};
  bool lossless = false;
  msr.index = ToUint<uint32_t>(from.Get("index"), "msr.index");
  msr.data = from.Get("value").As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) throw Napi::TypeError::New(from.Env(), "msr.value is out of range");
  return msr;
}

/// Each element of an array of objects, converted.
template <class T>
std::vector<T> ToVector(Napi::Value value, const char* name, T (*convert)(Napi::Object)) {
  const Napi::Array array = ToArray(value, name);
  std::vector<T> out;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::HandleScope scope(value.Env());
    out.push_back(convert(ToObject(array.Get(i), name)));
  }
  return out;
}

/// KVM leaves the leaves of the brand string empty; a guest is told the host's.
kvm_cpuid_entry2 WithBrand(kvm_cpuid_entry2 entry) {
  constexpr uint32_t kBrandFirst = 0x80000002, kBrandLast = 0x80000004;
  if (entry.function >= kBrandFirst && entry.function <= kBrandLast)
    __get_cpuid(entry.function, &entry.eax, &entry.ebx, &entry.ecx, &entry.edx);
  return entry;
}

}  // namespace

std::vector<kvm_cpuid_entry2> ToCpuid(Napi::Value value) {
  return ToVector(value, "cpuid", ToCpuidEntry);
}

BootPlan ToBootPlan(Napi::Value value) {
  const Napi::Object from = ToObject(value, "plan");
  BootPlan plan{};
  plan.blobs = ToVector(from.Get("blobs"), "plan.blobs", ToBlob);
  plan.msrs = ToVector(from.Get("msrs"), "plan.msrs", ToMsr);
  plan.entry = ToEntryState(ToObject(from.Get("entry"), "plan.entry"));
  const Napi::Array cpuid = ToArray(from.Get("cpuid"), "plan.cpuid");
  for (uint32_t i = 0; i < cpuid.Length(); ++i) plan.cpuid.push_back(ToCpuid(cpuid.Get(i)));
  return plan;
}

Napi::Value SupportedCpuid(const Napi::CallbackInfo& info) {
  constexpr uint32_t kEntriesMax = 256;  // KVM's own limit
  const std::vector<kvm_cpuid_entry2> room(kEntriesMax);
  Flexible<abi::CpuidHeader, kvm_cpuid_entry2> cpuid({kEntriesMax, 0}, room);
  const Fd kvm(open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!kvm.ok()) throw SysError(info.Env(), {errno, "open(/dev/kvm)"});
  if (ioctl(kvm.get(), abi::kGetSupportedCpuid, cpuid.get()) < 0)
    throw SysError(info.Env(), {errno, "ioctl(KVM_GET_SUPPORTED_CPUID)"});

  const uint32_t count = cpuid.header().entries;
  const Napi::Array out = Napi::Array::New(info.Env(), count);
  for (uint32_t i = 0; i < count; ++i) {
    const kvm_cpuid_entry2 entry = WithBrand(cpuid.entry(i));
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("function", entry.function);
    object.Set("index", entry.index);
    object.Set("flags", entry.flags);
    object.Set("eax", entry.eax);
    object.Set("ebx", entry.ebx);
    object.Set("ecx", entry.ecx);
    object.Set("edx", entry.edx);
    out.Set(i, object);
  }
  return out;
}

}  // namespace vmm
