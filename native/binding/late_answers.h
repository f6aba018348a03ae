#pragma once
#include <napi.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

namespace vmm {

/// What handlers of accesses answer: a number, nothing, or a promise of either. JS thread only.
class LateAnswers {
 public:
  struct Listener {
    std::function<void(size_t vcpu, uint32_t value)> on_answer;
    /// The promise is broken.
    std::function<void(Napi::Env env, size_t vcpu, const std::string& reason)> on_failure;
  };
  /// It is told of nothing once this has ended.
  explicit LateAnswers(Listener listener)
      : listener_(std::make_shared<const Listener>(std::move(listener))) {}

  /// The answer, or nothing if the listener hears of it later.
  std::optional<uint32_t> Take(Napi::Env env, size_t vcpu, Napi::Value answer);

 private:
  /// What promises call: one pair for all of a vCPU, for a guest decides how many there are.
  struct Settlers {
    Napi::FunctionReference resolved, rejected;
  };

  std::shared_ptr<const Listener> listener_;
  std::unordered_map<size_t, Settlers> settlers_;
};

}  // namespace vmm
