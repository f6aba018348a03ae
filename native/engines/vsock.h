#pragma once
#include "engine.h"
#include "vsock_work.h"

namespace vmm {

/// The data plane of sockets between guest and host, src/devices/virtio/vsock.ts: one thread.
class VsockEngine : public Engine {
 public:
  explicit VsockEngine(VsockOptions options) : options_(std::move(options)) {}

  /// 0 or a negative errno: then nothing is served.
  [[nodiscard]] int Start(EngineQueue rx, EngineQueue tx);

 private:
  const VsockOptions options_;
};

}  // namespace vmm
