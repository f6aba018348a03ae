#include "../../native/engines/first_sector.h"

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "check.h"

namespace {

using vmm::BlockRequest;
using vmm::FirstSector;

constexpr size_t kSectorBytes = 512;

/// A write of `bytes`, cut into pieces of at most `piece_bytes`.
BlockRequest WriteOf(std::string* bytes, size_t piece_bytes) {
  BlockRequest request;
  request.kind = BlockRequest::Kind::kWrite;
  for (size_t at = 0; at < bytes->size(); at += piece_bytes)
    request.data.push_back({bytes->data() + at, std::min(piece_bytes, bytes->size() - at)});
  return request;
}

std::string Joined(const BlockRequest& request) {
  std::string all;
  for (const iovec& piece : request.data)
    all.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
  return all;
}

std::string Bytes(size_t length, const std::string& start = "") {
  static std::minstd_rand random(1);
  std::string bytes(length, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes.replace(0, start.size(), start);
}

void SameBytes() {
  for (const size_t length : {kSectorBytes, 3 * kSectorBytes})
    for (size_t piece = 1; piece <= length; ++piece) {
      std::string bytes = Bytes(length, "\xeb\x63");
      BlockRequest request = WriteOf(&bytes, piece);
      FirstSector sector;
      CHECK(sector.Take(&request));
      CHECK(Joined(request) == bytes);
    }
}

void ChangedMeanwhile() {
  std::string bytes = Bytes(2 * kSectorBytes, "ok");
  const std::string as_it_was = bytes;
  BlockRequest request = WriteOf(&bytes, 700);
  FirstSector sector;
  CHECK(sector.Take(&request));
  bytes.replace(0, 4, "QFI\xfb");
  CHECK(Joined(request) == as_it_was);
}

void Headers() {
  for (const std::string start : {"QFI\xfb", "vhdxfile", "conectix"})
    for (size_t piece = 1; piece <= kSectorBytes; ++piece) {
      std::string bytes = Bytes(kSectorBytes, start);
      BlockRequest request = WriteOf(&bytes, piece);
      const size_t pieces = request.data.size();
      FirstSector sector;
      CHECK(!sector.Take(&request));
      CHECK(request.data.size() == pieces && Joined(request) == bytes);
    }
}

}  // namespace

int main() {
  Test("a write arrives as it was, however it is cut", SameBytes);
  Test("what the guest changes meanwhile does not", ChangedMeanwhile);
  Test("the header of another format is refused, however it is cut", Headers);
}
