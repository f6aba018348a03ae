#include "disk_wrap.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

#include "../disk/image_file.h"
#include "../disk/open_disk_image.h"
#include "../disk/qcow2_header.h"
#include "../sys/disk.h"
#include "args.h"
#include "js_queue.h"
#include "sys_error.h"

namespace vmm {
namespace {

DiskLock ToLock(Napi::Value value) {
  const std::string name = value.ToString().Utf8Value();
  if (name == "exclusive") return DiskLock::kExclusive;
  return name == "shared" ? DiskLock::kShared : DiskLock::kNone;
}

Napi::Value Prepare(const Napi::CallbackInfo& info) {
  DiskGeometry geometry;
  const bool direct = info[1].ToBoolean().Value();
  ThrowIfFailed(info.Env(), PrepareDisk(ToFd(info[0], "fd"), direct, &geometry));
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("sizeBytes", static_cast<double>(geometry.size_bytes));
  object.Set("logicalBytes", geometry.logical_bytes);
  object.Set("physicalBytes", geometry.physical_bytes);
  object.Set("alignmentOffsetBytes", geometry.alignment_offset_bytes);
  object.Set("minIoBytes", geometry.min_io_bytes);
  object.Set("optIoBytes", geometry.opt_io_bytes);
  object.Set("directAlignBytes", geometry.direct_align_bytes);
  return object;
}

Napi::Value Lock(const Napi::CallbackInfo& info) {
  const uint64_t size_bytes = ToU64(info[2], "sizeBytes");
  const int rc = LockDisk(ToFd(info[0], "fd"), ToLock(info[1]), size_bytes);
  if (rc != -EAGAIN && rc != -EACCES) ThrowIfFailed(info.Env(), rc, "fcntl(F_OFD_SETLK)");
  return Napi::Boolean::New(info.Env(), rc == 0);
}

/// Of ImageFormat.
constexpr const char* kFormats[] = {"Raw", "Qcow2", "FixedVhd", "Vhdx"};

Napi::Value Probe(const Napi::CallbackInfo& info) {
  ImageFormat format = ImageFormat::kRaw;
  ThrowIfFailed(info.Env(), ProbeImage(FileOf(ToFd(info[0], "fd")), &format), "pread");
  return Napi::String::New(info.Env(), kFormats[static_cast<size_t>(format)]);
}

Napi::Value Qcow2Summary(const Napi::CallbackInfo& info) {
  const ImageFile file(FileOf(ToFd(info[0], "fd")));
  uint64_t size_bytes = 0;
  ThrowIfFailed(info.Env(), file.Size(&size_bytes), "fstat");
  std::vector<std::byte> first_bytes(std::min<uint64_t>(size_bytes, kQcow2HeaderBytes));
  ThrowIfFailed(info.Env(), file.Read(0, first_bytes), "pread");
  Qcow2Header header;
  const std::string why =
      ParseQcow2Header(first_bytes, size_bytes, info[1].ToBoolean().Value(), &header);
  if (!why.empty()) throw Napi::Error::New(info.Env(), why);
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("clusterBytes", static_cast<double>(uint64_t{1} << header.cluster_bits));
  object.Set("backingFile", header.backing_file);
  object.Set("backingFormat", header.backing_format);
  return object;
}

Napi::Value Preallocate(const Napi::CallbackInfo& info) {
  const int fd = ToFd(info[0], "fd");
  const uint64_t size_bytes = ToU64(info[1], "sizeBytes");
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [=] {
    return Status{-PreallocateDisk(fd, size_bytes), "fallocate"};
  });
}

Napi::Value Sync(const Napi::CallbackInfo& info) {
  const int fd = ToFd(info[0], "fd");
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [=] {
    return Status{fdatasync(fd) < 0 ? errno : 0, "fdatasync"};
  });
}

}  // namespace

Napi::Object DefineDisks(Napi::Env env) {
  Napi::Object disks = Napi::Object::New(env);
  disks.Set("prepare", Napi::Function::New<Prepare>(env));
  disks.Set("lock", Napi::Function::New<Lock>(env));
  disks.Set("probe", Napi::Function::New<Probe>(env));
  disks.Set("qcow2", Napi::Function::New<Qcow2Summary>(env));
  disks.Set("preallocate", Napi::Function::New<Preallocate>(env));
  disks.Set("sync", Napi::Function::New<Sync>(env));
  return disks;
}

}  // namespace vmm
