#pragma once
#include <napi.h>

namespace vmm {

/// What src/native-net.ts declares as `NativeTaps`.
Napi::Object DefineTaps(Napi::Env env);

}  // namespace vmm
