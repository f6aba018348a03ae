#pragma once
#include <cstddef>
#include <cstdint>

namespace vmm {

/// Where a guest's output goes, be it of a serial port or of a console. Its producer is a vCPU or
/// the JS thread, so nobody may make it wait.
class ByteSink {
 public:
  virtual ~ByteSink() = default;
  /// Any thread.
  virtual void Put(const uint8_t* bytes, size_t count) = 0;
  /// Any thread but the sink's own. False if what can go out has not gone within `timeout_ms`.
  virtual bool Flush(uint32_t timeout_ms) = 0;
};

}  // namespace vmm
