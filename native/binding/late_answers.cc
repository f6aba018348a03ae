#include "late_answers.h"

namespace vmm {
namespace {

uint32_t ToAnswer(Napi::Value value) {
  return value.IsNumber() ? value.As<Napi::Number>().Uint32Value() : 0;
}

std::string ToReason(Napi::Value value) {
  const Napi::Value text = value.IsObject() ? value.As<Napi::Object>().Get("message") : value;
  return text.ToString().Utf8Value();
}

}  // namespace

std::optional<uint32_t> LateAnswers::Take(Napi::Env env, size_t vcpu, Napi::Value answer) {
  if (!answer.IsPromise()) return ToAnswer(answer);
  auto& [resolved, rejected] = settlers_[vcpu];
  if (resolved.IsEmpty()) {
    const auto on_resolved = [weak = std::weak_ptr(listener_), vcpu](const Napi::CallbackInfo& i) {
      if (const auto listener = weak.lock()) listener->on_answer(vcpu, ToAnswer(i[0]));
    };
    const auto on_rejected = [weak = std::weak_ptr(listener_), vcpu](const Napi::CallbackInfo& i) {
      if (const auto listener = weak.lock()) listener->on_failure(i.Env(), vcpu, ToReason(i[0]));
    };
    resolved = Napi::Persistent(Napi::Function::New(env, on_resolved));
    rejected = Napi::Persistent(Napi::Function::New(env, on_rejected));
  }
  answer.As<Napi::Promise>().Then(resolved.Value(), rejected.Value());
  return std::nullopt;
}

}  // namespace vmm
