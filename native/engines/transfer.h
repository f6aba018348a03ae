#pragma once
#include <cstdint>

#include "block_request.h"
#include "file_io.h"

namespace vmm {

/// Carries one request out on a raw image, as one file operation after another. It does no I/O
/// itself: it says what is to be done next, and is told how that went.
class Transfer {
 public:
  enum class Step { kNext, kDone, kFailed };

  /// `request`, whose data it uses up, must stay. `durable`: what it changes is on stable storage
  /// when it is done.
  void Begin(BlockRequest* request, bool durable);
  /// The operation to be done now. It stays as it is until Advance.
  const FileOp& op() const { return op_; }
  /// How that ended; kNext if another is to be done.
  Step Advance(int64_t result);
  /// The errno of kFailed.
  int error() const { return error_; }

 private:
  Step Fail(int error) { return error_ = error, Step::kFailed; }
  Step Moved(uint64_t bytes);
  Step Changed();
  Step NotSupported();
  void NextZeroes();

  BlockRequest* request_ = nullptr;
  FileOp op_;
  uint64_t left_ = 0;  // bytes of kRead and kWrite that are still to be moved
  size_t moved_ = 0;   // pieces of the request's data that are used up
  uint8_t retries_ = 0;
  int error_ = 0;
};

}  // namespace vmm
