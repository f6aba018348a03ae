#include "guest_memory_wrap.h"

#include <errno.h>

#include <utility>
#include <vector>

#include "args.h"
#include "js_queue.h"
#include "sys_error.h"

namespace vmm {

Napi::Function GuestMemoryWrap::Define(Napi::Env env) {
  return DefineClass(env, "GuestMemory",
                     {InstanceMethod<&GuestMemoryWrap::AddRegion>("addRegion"),
                      InstanceMethod<&GuestMemoryWrap::RemoveRegion>("removeRegion"),
                      InstanceMethod<&GuestMemoryWrap::Read>("read"),
                      InstanceMethod<&GuestMemoryWrap::Write>("write"),
                      InstanceMethod<&GuestMemoryWrap::Load>("load"),
                      InstanceMethod<&GuestMemoryWrap::Prefault>("prefault"),
                      InstanceMethod<&GuestMemoryWrap::Discard>("discard"),
                      InstanceMethod<&GuestMemoryWrap::Regions>("regions"),
                      InstanceMethod<&GuestMemoryWrap::Close>("close")});
}

Napi::Value GuestMemoryWrap::AddRegion(const Napi::CallbackInfo& info) {
  const Napi::Object options = ToObject(info[0], "options");
  const auto flag = [&](const char* name) { return options.Get(name).ToBoolean().Value(); };
  const auto number = [&](const char* name) {
    return options.Has(name) ? ToU64(options.Get(name), name) : 0;
  };
  RegionOptions region{ToU64(options.Get("gpa"), "gpa"), number("sizeBytes")};
  region.shared = flag("shared");
  region.thp = flag("thp");
  region.mergeable = flag("mergeable");
  region.reserve = flag("reserve");
  region.huge_page_bytes = number("hugePageBytes");
  if (options.Has("fd")) region.fd = ToFd(options.Get("fd"), "fd");
  region.file_offset = number("fileOffset");
  region.private_copy = flag("privateCopy");
  region.readonly = flag("readonly");
  region.discardable = flag("discardable");
  if (options.Has("hostNode"))
    region.host_node = ToUint<uint16_t>(options.Get("hostNode"), "hostNode");
  ThrowIfFailed(info.Env(), core_->Add(region), "mmap(guest RAM)");
  return info.Env().Undefined();
}

Napi::Value GuestMemoryWrap::RemoveRegion(const Napi::CallbackInfo& info) {
  auto mapping = core_->Remove(ToU64(info[0], "gpa"));
  if (mapping == nullptr) throw SysError(info.Env(), {ENOENT, "munmap(guest RAM)"});
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [mapping = std::move(mapping)] {
    return Status{-mapping->Empty(), "mmap(removed RAM)"};
  });
}

Napi::Value GuestMemoryWrap::Read(const Napi::CallbackInfo& info) {
  Napi::Uint8Array into = ToBytes(info[1], "into");
  const int rc = core_->CopyOut(ToU64(info[0], "gpa"), into.Data(), into.ByteLength());
  ThrowIfFailed(info.Env(), rc, "read(guest RAM)");
  return info.Env().Undefined();
}

Napi::Value GuestMemoryWrap::Write(const Napi::CallbackInfo& info) {
  const Napi::Uint8Array from = ToBytes(info[1], "from");
  const int rc = core_->CopyIn(ToU64(info[0], "gpa"), from.Data(), from.ByteLength());
  ThrowIfFailed(info.Env(), rc, "write(guest RAM)");
  return info.Env().Undefined();
}

Napi::Value GuestMemoryWrap::Load(const Napi::CallbackInfo& info) {
  const uint64_t gpa = ToU64(info[0], "gpa");
  const int fd = ToFd(info[1], "fd");
  const uint64_t offset = ToU64(info[2], "offset");
  const uint64_t len = ToU64(info[3], "length");
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [=, memory = core_] {
    return Status{-memory->Load(gpa, fd, offset, len), "pread(guest RAM)"};
  });
}

Napi::Value GuestMemoryWrap::Prefault(const Napi::CallbackInfo& info) {
  const uint64_t gpa = ToU64(info[0], "gpa");
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [gpa, memory = core_] {
    return Status{-memory->Prefault(gpa), "madvise(MADV_POPULATE_WRITE)"};
  });
}

Napi::Value GuestMemoryWrap::Discard(const Napi::CallbackInfo& info) {
  std::vector<vmm::Discard> discards;
  const Napi::Float64Array ranges = ToRanges(info[0], "ranges");
  for (uint32_t i = 0; i + 1 < ranges.ElementLength(); i += 2)
    core_->FindDiscards(ToU64(ranges.Get(i), "gpa"), ToU64(ranges.Get(i + 1), "length"), &discards);
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [discards = std::move(discards)] {
    int failed = 0;
    for (const vmm::Discard& discard : discards)
      if (const int rc = discard.Run(); rc < 0) failed = rc;
    return Status{-failed, "discard(guest RAM)"};
  });
}

Napi::Value GuestMemoryWrap::Regions(const Napi::CallbackInfo& info) {
  const Napi::Array regions = Napi::Array::New(info.Env());
  for (const BackedRegion& region : core_->regions()) {
    if (region.file == nullptr) continue;
    Napi::Object shared = Napi::Object::New(info.Env());
    shared.Set("gpa", static_cast<double>(region.gpa));
    shared.Set("sizeBytes", static_cast<double>(region.size_bytes));
    shared.Set("readonly", region.readonly);
    shared.Set("fd", region.file->get());
    shared.Set("fileOffset", static_cast<double>(region.file_offset));
    regions.Set(regions.Length(), shared);
  }
  return regions;
}

Napi::Value GuestMemoryWrap::Close(const Napi::CallbackInfo& info) {
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [memory = core_] {
    memory->Clear();
    return Status{};
  });
}

}  // namespace vmm
