#pragma once
#include <napi.h>

#include <vector>

namespace vmm {

/// What it throws is a bug of ours and has no caller: it is reported as uncaught. Not by an
/// exception of C++, which an environment that is ending meanwhile cannot make.
inline void CallFromLoop(Napi::Env env, Napi::Function function, Napi::Object self,
                         const std::vector<napi_value>& args) {
  const napi_status status =
      napi_make_callback(env, nullptr, self, function, args.size(), args.data(), nullptr);
  napi_value error = nullptr;
  if (status == napi_pending_exception && napi_get_and_clear_last_exception(env, &error) == napi_ok)
    napi_fatal_exception(env, error);
}

}  // namespace vmm
