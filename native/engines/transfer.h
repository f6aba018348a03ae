#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "../disk/disk_image.h"
#include "block_request.h"
#include "file_io.h"

namespace vmm {

/// So many bytes are moved by one operation, and by one step in memory.
constexpr uint64_t kTransferBytesMax = 4 << 20;
/// So many are discarded or zeroed, for which the host need not move them.
constexpr uint64_t kRangeBytesMax = 64 << 20;

/// Carries one request out, as one file operation after another, none of them large. It does no I/O
/// on the guest's data itself: it says what is to be done next, and is told how that went. The
/// image's own tables are read and written by the way.
class Transfer {
 public:
  enum class Step {
    kOp,     // op() is to be done, and its end told to Advance
    kYield,  // so much is done; Continue has the rest
    kBusy,   // Continue when another write of the disk has ended
    kDone,
    kFailed,
  };

  /// `request`, whose data it uses up, and `disk` must stay. `durable`: what it changes is on
  /// stable storage when it is done.
  Step Begin(BlockRequest* request, DiskImage* disk, bool durable);
  /// After kYield and kBusy, or instead of an operation that was not begun.
  Step Continue();
  /// Of a request, what is under way at a time.
  static uint64_t StepBytes(const BlockRequest& request) {
    const bool moves =
        request.kind == BlockRequest::Kind::kRead || request.kind == BlockRequest::Kind::kWrite;
    return std::min(request.length_bytes, moves ? kTransferBytesMax : kRangeBytesMax);
  }
  /// In memory, besides the request's data, as long as the operation is under way.
  uint64_t surround_bytes() const { return plan_.before.size() + plan_.after.size(); }
  /// The operation to be done now. It stays as it is until Advance or Continue. If the transfer
  /// failed, what failed; its offset is one of the disk if no operation did.
  const FileOp& op() const { return op_; }
  /// How that ended.
  Step Advance(int64_t result);
  /// Gives up what is left, and the memory it took. No operation may be under way.
  void Drop();
  /// The errno of kFailed.
  int error() const { return error_; }

 private:
  Step PlanRead();
  Step PlanWrite();
  Step PlanRange();
  Step PlanSync();
  Step SetPieces();
  Step SetOp();
  iovec TakePiece(uint64_t most);
  void FillFrom(const Extent& extent);
  Step Moved(uint64_t bytes);
  Step Ended();
  int EndPlan(bool written);
  void Pass();
  Step NotSupported();
  Step Fail(int error);

  BlockRequest* request_ = nullptr;
  DiskImage* disk_ = nullptr;
  bool durable_ = false;    // each write is
  bool sync_last_ = false;  // instead
  bool unmap_ = false;
  bool has_op_ = false;
  bool writing_ = false;  // `plan_` is to be ended
  uint8_t retries_ = 0;
  int error_ = 0;
  uint64_t offset_ = 0;   // of the disk: what the request asks for before it is done
  uint64_t left_ = 0;     // bytes from there on
  uint64_t by_hand_ = 0;  // of these, the first are zeroes to be written as data
  uint64_t planned_ = 0;  // of these, the first are what is being done now
  size_t used_up_ = 0;    // pieces of the request's data
  WritePlan plan_;
  FileOp op_;
  uint64_t unmoved_ = 0;     // bytes of the operation, and of what does not fit into it
  iovec* pieces_ = nullptr;  // these bytes: of the request's data, or of `own_pieces_`
  size_t piece_count_ = 0;
  std::vector<iovec> own_pieces_;
};

}  // namespace vmm
