#include "vsock_rx.h"

#include <algorithm>
#include <span>

namespace vmm {
namespace {

/// `pieces`, cut to what one recvmsg(2) takes.
class PieceList {
 public:
  PieceList(std::vector<iovec>* pieces, uint32_t bytes_max) : pieces_(pieces), left_(bytes_max) {}
  bool push_back(iovec piece) {
    piece.iov_len = std::min<uint64_t>(piece.iov_len, left_);
    if (piece.iov_len == 0) return true;
    if (pieces_->size() == kChainSegmentsMax) return true;
    left_ -= static_cast<uint32_t>(piece.iov_len);
    bytes_ += static_cast<uint32_t>(piece.iov_len);
    pieces_->push_back(piece);
    return true;
  }
  uint32_t bytes() const { return bytes_; }

 private:
  std::vector<iovec>* const pieces_;
  uint32_t left_;
  uint32_t bytes_ = 0;
};

}  // namespace

/// False if there is none, or the queue is broken. One that has no room for a header goes back
/// empty: whoever offers more of them waits for the next round.
bool VsockRx::TakeChain(uint32_t payload_bytes_max) {
  uint16_t head = 0;
  if (queue_.queue->Take(&chain_, &head) != Queue::Taken::kChain) return false;
  Room& room = rooms_[count_];
  room.header.count = 0;
  PieceList payload(&payload_, payload_bytes_max);
  if (!SplitPieces(chain_.writable, sizeof(VsockHeader), &room.header, &payload)) {
    if (count_ > 0)
      queue_.queue->GiveBack({&head, 1});
    else
      queue_.queue->Complete(head, 0);
    return false;
  }
  room.payload_bytes = payload.bytes();
  payload_bytes_ += room.payload_bytes;
  heads_[count_++] = head;
  return true;
}

void VsockRx::Fill(size_t index, VsockHeader header) {
  header.dst_cid = guest_cid_;
  WriteVsockHeader(header, rooms_[index].header);
  queue_.queue->Complete(heads_[index], static_cast<uint32_t>(sizeof(header)) + header.len);
}

bool VsockRx::Send(const VsockHeader& header) {
  Clear();
  if (!TakeChain(0)) return false;
  Fill(0, header);
  return true;
}

bool VsockRx::SendPayload(VsockConnection* connection) {
  Clear();
  const uint32_t most = connection->read_bytes_max();
  const uint32_t likely = std::min(connection->read_bytes_likely(), most);
  while (payload_bytes_ < likely && count_ < kChainsMax)
    if (!TakeChain(most - payload_bytes_)) break;
  if (count_ == 0) return false;
  if (payload_bytes_ == 0) {  // room for headers only: the driver learns that it was seen
    for (size_t i = 0; i < count_; ++i) Fill(i, connection->Header(VIRTIO_VSOCK_OP_CREDIT_UPDATE));
    return true;
  }
  const uint32_t bytes = connection->Read(payload_.data(), payload_.size());
  size_t filled = 0;
  for (uint32_t left = bytes; left > 0; ++filled) {
    VsockHeader header = connection->Header(VIRTIO_VSOCK_OP_RW);
    header.len = std::min(left, rooms_[filled].payload_bytes);
    left -= header.len;
    Fill(filled, header);
  }
  queue_.queue->GiveBack(std::span(heads_).subspan(filled, count_ - filled));
  unseen_bytes_ += bytes;
  if (unseen_bytes_ >= kVsockPayloadBytesMax) Show();  // it reads these while we fetch the next
  return true;
}

void VsockRx::Show() {
  unseen_bytes_ = 0;
  if (queue_.queue->Publish()) queue_.irq->Signal();
}

void VsockRx::Clear() {
  count_ = 0;
  payload_.clear();
  payload_bytes_ = 0;
}

}  // namespace vmm
