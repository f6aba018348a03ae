#pragma once
#include <napi.h>

#include <memory>

#include "../base/event_fd.h"
#include "../kvm/passthrough.h"
#include "../sys/vfio.h"
#include "fd_poll.h"

namespace vmm {

/// `class VfioContainer` of src/native-vfio.ts.
class VfioContainerWrap : public Napi::ObjectWrap<VfioContainerWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit VfioContainerWrap(const Napi::CallbackInfo& info);

  const std::shared_ptr<VfioContainer>& core() const { return core_; }

 private:
  Napi::Value Follow(const Napi::CallbackInfo& info);
  Napi::Value Reach(const Napi::CallbackInfo& info);
  Napi::Value Map(const Napi::CallbackInfo& info);
  Napi::Value Unmap(const Napi::CallbackInfo& info);
  Napi::Value LeftOutBytes(const Napi::CallbackInfo& info);
  Napi::Value Limits(const Napi::CallbackInfo& info);
  const std::shared_ptr<VfioContainer>& Core(Napi::Env env) const;
  Napi::Value Close(const Napi::CallbackInfo& info);

  std::shared_ptr<VfioContainer> core_;  // null once closed
};

/// `class VfioDevice` of src/native-vfio.ts.
class VfioDeviceWrap : public Napi::ObjectWrap<VfioDeviceWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit VfioDeviceWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {}
  ~VfioDeviceWrap() override { StopWatching(); }

  /// Throws EBADF unless it is open.
  const std::shared_ptr<VfioDevice>& Core(Napi::Env env) const;

 private:
  Napi::Value Open(const Napi::CallbackInfo& info);
  Napi::Value Regions(const Napi::CallbackInfo& info);
  Napi::Value IrqCounts(const Napi::CallbackInfo& info);
  Napi::Value Read(const Napi::CallbackInfo& info);
  Napi::Value Write(const Napi::CallbackInfo& info);
  Napi::Value SetIrqs(const Napi::CallbackInfo& info);
  Napi::Value SetUnmask(const Napi::CallbackInfo& info);
  Napi::Value OnRequest(const Napi::CallbackInfo& info);
  Napi::Value Reset(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);
  void StopWatching();

  const std::shared_ptr<VfioDevice> core_ = std::make_shared<VfioDevice>();
  bool closed_ = false;
  EventFd request_;
  std::shared_ptr<FdPoll> poll_;
  Napi::FunctionReference on_request_;
};

/// `class Passthrough` of src/native-vfio.ts. Does nothing once the Vm has gone.
class PassthroughWrap : public Napi::ObjectWrap<PassthroughWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit PassthroughWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value Map(const Napi::CallbackInfo& info);
  Napi::Value MapFile(const Napi::CallbackInfo& info);
  Napi::Value Unmap(const Napi::CallbackInfo& info);
  Napi::Value Hold(const Napi::CallbackInfo& info);
  Napi::Value Drop(const Napi::CallbackInfo& info);
  Napi::Value Connect(const Napi::CallbackInfo& info);
  Napi::Value Disconnect(const Napi::CallbackInfo& info);
  std::shared_ptr<Passthrough> Core(Napi::Env env) const;

  std::weak_ptr<Passthrough> core_;
};

}  // namespace vmm
