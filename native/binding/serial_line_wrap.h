#pragma once
#include <napi.h>

#include <memory>

#include "../serial/line.h"

namespace vmm {

/// `class SerialLine` of src/native.ts.
class SerialLineWrap : public Napi::ObjectWrap<SerialLineWrap> {
 public:
  static Napi::Function Define(Napi::Env env);
  explicit SerialLineWrap(const Napi::CallbackInfo& info);
  /// Not left to the last owner: that may be the line's own thread.
  ~SerialLineWrap() override {
    if (core_) core_->Close();
  }

  const std::shared_ptr<Line>& core() const { return core_; }

 private:
  Napi::Value Path(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  std::shared_ptr<Line> core_;
};

}  // namespace vmm
