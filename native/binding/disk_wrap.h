#pragma once
#include <napi.h>

namespace vmm {

/// What src/native-disks.ts declares as `NativeDisks`.
Napi::Object DefineDisks(Napi::Env env);

}  // namespace vmm
