#include "vsock.h"

#include <memory>
#include <utility>

namespace vmm {

int VsockEngine::Start(EngineQueue rx, EngineQueue tx) {
  auto work = std::make_unique<VsockWork>(options_, std::move(rx), std::move(tx));
  if (const int rc = work->Open(); rc < 0) return rc;
  return AddThread(options_.id, {}, std::move(work));
}

}  // namespace vmm
