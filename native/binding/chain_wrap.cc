#include "chain_wrap.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "args.h"

namespace vmm {
namespace {

/// Calls `copy(host, done, part)` for each piece of [offset, offset + len) that there is. Returns
/// how many bytes that was.
template <class Copy>
uint64_t ForEachPiece(const std::vector<iovec>& pieces, uint64_t offset, uint64_t len, Copy copy) {
  uint64_t done = 0;
  for (const iovec& piece : pieces) {
    if (offset >= piece.iov_len) {
      offset -= piece.iov_len;
      continue;
    }
    const uint64_t part = std::min(len - done, piece.iov_len - offset);
    if (part == 0) break;
    copy(static_cast<std::byte*>(piece.iov_base) + offset, done, part);
    done += part;
    offset = 0;
  }
  return done;
}

Napi::Value ToNumber(Napi::Env env, uint64_t bytes) {
  return Napi::Number::New(env, static_cast<double>(bytes));
}

uint64_t ToOffset(Napi::Value value) { return value.IsUndefined() ? 0 : ToU64(value, "offset"); }

}  // namespace

Napi::Function ChainWrap::Define(Napi::Env env) {
  return DefineClass(
      env, "Chain",
      {InstanceAccessor<&ChainWrap::ReadableBytes>("readableBytes"),
       InstanceAccessor<&ChainWrap::WritableBytes>("writableBytes"),
       InstanceMethod<&ChainWrap::Read>("read"), InstanceMethod<&ChainWrap::Write>("write"),
       InstanceMethod<&ChainWrap::WritableRanges>("writableRanges"),
       InstanceMethod<&ChainWrap::Complete>("complete")});
}

ChainWrap::ChainWrap(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  if (!info[0].IsExternal())
    throw Napi::TypeError::New(info.Env(), "Chain is made by Virtqueue.take");
  Taken* taken = info[0].As<Napi::External<Taken>>().Data();
  link_ = std::move(taken->link);
  regions_ = std::move(taken->regions);
  readable_ = taken->chain->readable;
  writable_ = taken->chain->writable;
  head_ = taken->head;
  link_->out.insert(this);
}

void ChainWrap::Drop() {
  if (link_ != nullptr) link_->out.erase(this);
  link_ = nullptr;
  readable_.pieces = {};
  writable_.pieces = {};
  regions_ = nullptr;
}

Napi::Value ChainWrap::ReadableBytes(const Napi::CallbackInfo& info) {
  return ToNumber(info.Env(), readable_.bytes);
}

Napi::Value ChainWrap::WritableBytes(const Napi::CallbackInfo& info) {
  return ToNumber(info.Env(), writable_.bytes);
}

Napi::Value ChainWrap::Read(const Napi::CallbackInfo& info) {
  Napi::Uint8Array into = ToBytes(info[0], "into");
  const uint64_t offset = ToOffset(info[1]);
  if (link_ == nullptr) return ToNumber(info.Env(), 0);
  const uint64_t done =
      ForEachPiece(readable_.pieces, offset, into.ByteLength(),
                   [to = into.Data()](const std::byte* host, uint64_t at, uint64_t part) {
                     std::memcpy(to + at, host, part);
                   });
  return ToNumber(info.Env(), done);
}

Napi::Value ChainWrap::Write(const Napi::CallbackInfo& info) {
  const Napi::Uint8Array from = ToBytes(info[0], "from");
  const uint64_t offset = ToOffset(info[1]);
  if (link_ == nullptr) return ToNumber(info.Env(), 0);
  const uint64_t done =
      ForEachPiece(writable_.pieces, offset, from.ByteLength(),
                   [bytes = from.Data()](std::byte* host, uint64_t at, uint64_t part) {
                     std::memcpy(host, bytes + at, part);
                   });
  return ToNumber(info.Env(), done);
}

Napi::Value ChainWrap::WritableRanges(const Napi::CallbackInfo& info) {
  auto ranges = Napi::Float64Array::New(info.Env(), 2 * writable_.pieces.size());
  for (size_t i = 0; i < writable_.pieces.size(); ++i) {
    const iovec& piece = writable_.pieces[i];
    ranges[2 * i] = static_cast<double>(regions_->GpaOf(piece.iov_base));
    ranges[2 * i + 1] = static_cast<double>(piece.iov_len);
  }
  return ranges;
}

Napi::Value ChainWrap::Complete(const Napi::CallbackInfo& info) {
  const uint64_t written = ToU64(info[0], "writtenBytes");
  if (written > writable_.bytes)
    throw Napi::TypeError::New(info.Env(), "writtenBytes is more than the chain has room for");
  const auto link = link_;
  Drop();
  if (link != nullptr) link->wrap->Complete(info.Env(), head_, static_cast<uint32_t>(written));
  return info.Env().Undefined();
}

}  // namespace vmm
