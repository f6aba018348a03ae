#include "disk_image_wrap.h"

#include <string>
#include <vector>

#include "../disk/open_disk_image.h"
#include "args.h"
#include "js_queue.h"

namespace vmm {
namespace {

ImageFormat ToFormat(Napi::Value value) {
  const std::string name = value.ToString().Utf8Value();
  if (name == "Qcow2") return ImageFormat::kQcow2;
  if (name == "FixedVhd") return ImageFormat::kVhd;
  return name == "Vhdx" ? ImageFormat::kVhdx : ImageFormat::kRaw;
}

FormattedFile ToFile(const Napi::Object& from) {
  const auto align_bytes = ToUint<uint32_t>(from.Get("alignBytes"), "alignBytes");
  if (align_bytes == 0 || (align_bytes & (align_bytes - 1)) != 0)
    throw Napi::TypeError::New(from.Env(), "alignBytes is no power of two");
  return {FileOf(ToFd(from.Get("fd"), "fd"), align_bytes), ToFormat(from.Get("type"))};
}

std::vector<FormattedFile> ToFiles(Napi::Value value) {
  const Napi::Array array = ToArray(value, "files");
  if (array.Length() == 0) throw Napi::TypeError::New(value.Env(), "files is empty");
  std::vector<FormattedFile> out;
  for (uint32_t i = 0; i < array.Length(); ++i)
    out.push_back(ToFile(ToObject(array.Get(i), "files")));
  return out;
}

}  // namespace

Napi::Function DiskImageWrap::Define(Napi::Env env) {
  return DefineClass(env, "DiskImage",
                     {InstanceAccessor<&DiskImageWrap::SizeBytes>("sizeBytes"),
                      InstanceAccessor<&DiskImageWrap::SectorBytes>("sectorBytes"),
                      InstanceMethod<&DiskImageWrap::Resize>("resize"),
                      InstanceMethod<&DiskImageWrap::Close>("close")});
}

DiskImageWrap::DiskImageWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  const Napi::Object options = ToObject(info[0], "options");
  const bool readonly = options.Get("readonly").ToBoolean().Value();
  std::string why;
  if (OpenDiskImage(ToFiles(options.Get("files")), readonly, &core_, &why) < 0)
    throw Napi::Error::New(info.Env(), why);
}

Napi::Value DiskImageWrap::SizeBytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(core_->size_bytes()));
}

Napi::Value DiskImageWrap::SectorBytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), core_->sector_bytes());
}

Napi::Value DiskImageWrap::Resize(const Napi::CallbackInfo& info) {
  const uint64_t size_bytes = ToU64(info[0], "sizeBytes");
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [image = core_, size_bytes] {
    return Status{-image->Resize(size_bytes), "ftruncate"};
  });
}

Napi::Value DiskImageWrap::Close(const Napi::CallbackInfo& info) {
  return JsQueue::Of(info.Env()).RunOnWorker(info.Env(), [image = core_] {
    return Status{-image->Close(), "fdatasync"};
  });
}

}  // namespace vmm
