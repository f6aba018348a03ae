#pragma once

namespace vmm {

/// How an operation of several system calls ended: which of them failed, and with which errno.
struct Status {
  int error = 0;  // a positive errno, 0 if all went well
  const char* call = "";
  int index = -1;  // of the vCPU, blob or range concerned, -1 if none
  bool ok() const { return error == 0; }
};

}  // namespace vmm
