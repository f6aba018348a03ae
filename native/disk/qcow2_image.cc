#include "qcow2_image.h"

#include <errno.h>

#include <algorithm>
#include <array>
#include <utility>

namespace vmm::qcow2 {

using Kind = Cluster::Kind;

namespace {

constexpr uint64_t kAutoclearAt = 88;  // in the header

}  // namespace

Qcow2Image::Qcow2Image(Store store, Qcow2Backing backing,
                       std::unique_ptr<Decompressor> decompressor, bool readonly)
    : backing_(std::move(backing)),
      backing_files_(backing_.files.begin(), backing_.files.end()),
      readonly_(readonly),
      store_(std::move(store)),
      refcounts_(&store_),
      allocator_(&store_, &refcounts_),
      mapping_(&store_, &allocator_),
      compressed_(&store_, std::move(decompressor)) {}

Qcow2Image::~Qcow2Image() {
  const std::lock_guard lock(mutex_);
  if (readonly_ || FlushLocked() < 0 || store_.Sync() < 0) return;
  allocator_.Close();
}

int Qcow2Image::Open() {
  if (const int rc = mapping_.Open(readonly_); rc < 0 || readonly_) return rc;
  if (!store_.metadata.Add({0, 1})) return -EINVAL;
  const int rc = refcounts_.Open();
  return rc == 0 ? ClearAutoclear() : rc;
}

/// What other writers keep up to date besides the disk, as its dirty bitmaps, we do not.
int Qcow2Image::ClearAutoclear() {
  if (store_.header.autoclear == 0) return 0;
  const std::array<std::byte, 8> none{};
  const int rc = store_.file->Write(kAutoclearAt, none);
  return rc == 0 ? store_.Sync() : rc;
}

Cluster Qcow2Image::Named(uint64_t entry) const {
  return Decode(entry, store_.header.version, store_.header.cluster_bits, store_.file_bytes);
}

/// Whether the cluster may be written where it is.
bool Qcow2Image::HasPlace(const Cluster& cluster) const {
  return cluster.offset != 0 && cluster.copied &&
         !store_.metadata.Overlaps({store_.ClusterOf(cluster.offset), 1});
}

Run Qcow2Image::Touched(DiskRange range) const {
  const uint64_t first = store_.ClusterOf(range.offset);
  return {first, store_.ClusterOf(range.offset + range.length - 1) + 1 - first};
}

/// The last cluster of the disk is whole where the disk ends.
Run Qcow2Image::Whole(DiskRange range) const {
  const uint64_t round_up = store_.header.cluster_bytes() - 1;
  const uint64_t end = range.offset + range.length;
  const uint64_t first = store_.ClusterOf(range.offset + round_up);
  const uint64_t last = store_.ClusterOf(end == size_bytes() ? end + round_up : end);
  return {first, last - std::min(first, last)};
}

int Qcow2Image::Read(DiskRange range, Extent* out) {
  std::unique_lock lock(mutex_);
  Cluster cluster;
  if (const int rc = Find(range, &cluster, out); rc < 0) return rc;
  if (cluster.kind == Kind::kCompressed) return ReadCompressed(range, cluster, out, &lock);
  lock.unlock();
  return cluster.kind == Kind::kUnallocated ? ReadBacking({range.offset, out->length}, out) : 0;
}

/// What the tables say of `range` or the beginning of it. Of a compressed cluster, and of what is
/// in the backing file, the length and the offset alone.
int Qcow2Image::Find(DiskRange range, Cluster* cluster, Extent* out) {
  const Run disk = Touched(range);
  Mapping::Slice slice;
  if (const int rc = mapping_.Lookup(disk.first, &slice); rc < 0) return rc;
  *cluster = At(slice, 0);
  if (cluster->kind == Kind::kBad) return -EIO;
  const uint64_t end = std::min(disk.count, slice.count);
  uint64_t count = 1;
  for (; count < end && cluster->kind != Kind::kCompressed; ++count) {
    const Cluster next = At(slice, count);
    const bool goes_on =
        cluster->kind != Kind::kData || next.offset == cluster->offset + store_.OffsetOf(count);
    if (next.kind != cluster->kind || !goes_on) break;
  }
  const uint64_t skipped = range.offset - store_.OffsetOf(disk.first);
  const uint64_t length = std::min(range.length, store_.OffsetOf(count) - skipped);
  *out = {Extent::Kind::kZero, 0, 0, length, nullptr};
  if (cluster->kind == Kind::kCompressed)
    *out = {Extent::Kind::kBytes, 0, skipped, length, nullptr};
  if (cluster->kind != Kind::kData) return 0;
  // Who wrote the last cluster may have left the end of it to the end of the file.
  const uint64_t offset = cluster->offset + skipped;
  if (offset >= store_.file_bytes) return 0;
  *out = {Extent::Kind::kFile, 0, offset, std::min(length, store_.file_bytes - offset), nullptr};
  return 0;
}

/// Meanwhile others may write the cluster, and to where it was. None is ever compressed by us: if
/// the tables still say the same, so it was all the time, and else the second look finds data.
int Qcow2Image::ReadCompressed(DiskRange range, const Cluster& cluster, Extent* out,
                               std::unique_lock<std::mutex>* lock) {
  if (out->bytes = compressed_.Find(cluster); out->bytes != nullptr) return 0;
  const uint64_t file_bytes = store_.file_bytes;
  lock->unlock();
  CompressedClusters::Bytes bytes;
  const int loaded = compressed_.Load(cluster, file_bytes, &bytes);
  lock->lock();
  Cluster now;
  if (const int rc = Find(range, &now, out); rc < 0) return rc;
  if (now == cluster) {
    if (loaded < 0) return loaded;
    compressed_.Keep(cluster, bytes);
    out->bytes = std::move(bytes);
    return 0;
  }
  if (now.kind == Kind::kCompressed) return -EIO;
  return now.kind == Kind::kUnallocated ? ReadBacking({range.offset, out->length}, out) : 0;
}

/// What it is backed by is only read, and changes for nobody.
int Qcow2Image::ReadBacking(DiskRange range, Extent* out) const {
  *out = {Extent::Kind::kZero, 0, 0, range.length, nullptr};
  if (backing_.image == nullptr || range.offset >= backing_.image->size_bytes()) return 0;
  range.length = std::min(range.length, backing_.image->size_bytes() - range.offset);
  const int rc = backing_.image->Read(range, out);
  if (rc == 0 && out->kind == Extent::Kind::kFile) ++out->file;
  return rc;
}

/// What lies behind the end of the disk is zeroes.
int Qcow2Image::ReadBytes(uint64_t offset, std::span<std::byte> into) {
  while (!into.empty() && offset < size_bytes()) {
    Extent extent;
    const uint64_t wanted = std::min<uint64_t>(into.size(), size_bytes() - offset);
    if (const int rc = Read({offset, wanted}, &extent); rc < 0) return rc;
    const std::span<std::byte> part = into.first(extent.length);
    if (extent.kind == Extent::Kind::kBytes)
      std::copy_n(&extent.bytes[static_cast<ptrdiff_t>(extent.offset)], part.size(), part.data());
    if (extent.kind == Extent::Kind::kZero) std::fill(part.begin(), part.end(), std::byte{0});
    if (extent.kind == Extent::Kind::kFile) {
      if (extent.file > backing_files_.size()) return -EIO;
      const ImageFile& file = extent.file == 0 ? *store_.file : backing_files_[extent.file - 1];
      if (const int rc = file.Read(extent.offset, part); rc < 0) return AsIoError(rc);
    }
    offset += part.size();
    into = into.subspan(part.size());
  }
  std::fill(into.begin(), into.end(), std::byte{0});
  return 0;
}

/// What must stand around the data is read when nobody else can write there.
int Qcow2Image::BeginWrite(DiskRange range, WritePlan* out) {
  *out = {};
  Write write;
  if (const int rc = Claim(range, &write, &out->ticket); rc < 0) return rc;
  const int rc = Surround(range, write, out);
  if (rc == 0) return 0;
  const std::lock_guard lock(mutex_);
  in_flight_.Take(out->ticket);
  if (write.kind == Write::Kind::kFresh) allocator_.GiveBack({write.file_first, write.disk.count});
  return rc;
}

/// Gives the clusters of `range`, or the first of them, a place, for this write alone.
int Qcow2Image::Claim(DiskRange range, Write* write, uint64_t* ticket) {
  const std::lock_guard lock(mutex_);
  if (readonly_) return -EROFS;
  Run& disk = write->disk;
  disk = Touched(range);
  Mapping::Slice slice;
  if (const int rc = mapping_.Lookup(disk.first, &slice); rc < 0) return rc;
  disk.count = std::min(disk.count, slice.count);
  if (const Cluster first = At(slice, 0); first.kind != Kind::kData || !HasPlace(first)) {
    const uint64_t end = in_flight_.FirstMadeIn(disk);
    if (end == disk.first) return -EBUSY;
    disk.count = end - disk.first;
    if (allocator_.many_frees())
      if (const int rc = FlushLocked(); rc < 0) return rc;
    if (const int rc = mapping_.Own(disk.first); rc < 0) return rc;
    if (const int rc = mapping_.Lookup(disk.first, &slice); rc < 0) return rc;
  }
  if (const int rc = Place(slice, write); rc < 0) return rc;
  *ticket = in_flight_.Add(*write);
  return 0;
}

/// Finds where as many of `write->disk` as possible go in one piece.
int Qcow2Image::Place(const Mapping::Slice& slice, Write* write) {
  const Cluster first = At(slice, 0);
  if (first.kind == Kind::kBad) return -EIO;
  const bool in_place = HasPlace(first);
  uint64_t count = 0;
  for (; count < write->disk.count; ++count) {
    const Cluster cluster = At(slice, count);
    const bool has_place = HasPlace(cluster);
    const bool same = in_place ? cluster.kind == first.kind && has_place &&
                                     cluster.offset == first.offset + store_.OffsetOf(count)
                               : cluster.kind != Kind::kBad && !has_place;
    if (!same) break;
    write->replaces = write->replaces || cluster.kind == Kind::kData ||
                      cluster.kind == Kind::kCompressed ||
                      (cluster.kind == Kind::kUnallocated && backing_.image != nullptr);
  }
  write->disk.count = count;
  if (in_place) {
    write->kind = first.kind == Kind::kZero ? Write::Kind::kRefill : Write::Kind::kInPlace;
    write->file_first = store_.ClusterOf(first.offset);
    return 0;
  }
  Run run;
  if (const int rc = allocator_.Take(count, &run); rc < 0) return rc;
  write->kind = Write::Kind::kFresh;
  write->disk.count = run.count;
  write->file_first = run.first;
  return 0;
}

/// Says how to write `range` or the beginning of it, with what must stand around it.
int Qcow2Image::Surround(DiskRange range, const Write& write, WritePlan* out) {
  const uint64_t begin = store_.OffsetOf(write.disk.first);
  const uint64_t end = std::min(range.offset + range.length, store_.OffsetOf(write.disk.end()));
  const uint64_t skipped = range.offset - begin;
  out->length = end - range.offset;
  out->offset = store_.OffsetOf(write.file_first) + skipped;
  const bool fresh = write.kind == Write::Kind::kFresh;
  if (write.kind == Write::Kind::kInPlace || (fresh && !write.replaces)) return 0;
  out->before.resize(skipped);
  out->after.resize(store_.OffsetOf(Touched({range.offset, out->length}).end()) - end);
  if (const int rc = ReadBytes(begin, out->before); rc < 0) return rc;
  if (const int rc = ReadBytes(end, out->after); rc < 0) return rc;
  const auto zero = [](std::byte byte) { return byte == std::byte{0}; };
  for (std::vector<std::byte>* part : {&out->before, &out->after})
    if (fresh && std::all_of(part->begin(), part->end(), zero)) *part = {};
  out->offset -= out->before.size();
  return 0;
}

int Qcow2Image::EndWrite(uint64_t ticket, bool written) {
  const std::lock_guard lock(mutex_);
  const Write write = in_flight_.Take(ticket);
  if (write.kind == Write::Kind::kInPlace) return 0;
  const int rc = written ? Adopt(write) : 0;
  if (write.kind == Write::Kind::kFresh && (!written || rc < 0))
    allocator_.Free({write.file_first, write.disk.count});
  return rc;
}

int Qcow2Image::Adopt(const Write& write) {
  if (const int rc = mapping_.Own(write.disk.first); rc < 0) return rc;
  for (uint64_t i = 0; i < write.disk.count; ++i) {
    const Cluster old = Named(mapping_.Get(write.disk.first + i));
    mapping_.Set(write.disk.first + i, store_.OffsetOf(write.file_first + i) | kCopiedFlag);
    if (write.kind == Write::Kind::kFresh) Release(old);
  }
  // Else a crash of the host could have neither what was there nor what was written.
  if (write.replaces || write.kind == Write::Kind::kRefill) store_.unsynced = true;
  return 0;
}

int Qcow2Image::Discard(DiskRange range) {
  const std::lock_guard lock(mutex_);
  if (readonly_) return -EROFS;
  Run disk = Whole(range);
  if (in_flight_.FirstIn(disk) != disk.end()) return -EBUSY;
  if (backing_.image != nullptr && store_.header.version < 3) return 0;
  while (disk.count > 0) {
    Mapping::Slice slice;
    if (const int rc = mapping_.Lookup(disk.first, &slice); rc < 0) return rc;
    const Run part{disk.first, std::min(disk.count, slice.count)};
    if (slice.entries != nullptr)
      if (const int rc = Clear(part, Clearing::kDiscard); rc < 0) return rc;
    disk = {part.end(), disk.count - part.count};
  }
  return 0;
}

int Qcow2Image::Zero(DiskRange range, bool unmap, uint64_t* done, uint64_t* by_hand) {
  *done = *by_hand = 0;
  if (readonly_) return -EROFS;
  const Run disk = Whole(range);
  const bool by_table = backing_.image == nullptr || store_.header.version >= 3;
  if (!by_table || disk.count == 0 || store_.OffsetOf(disk.first) != range.offset) {
    const uint64_t edge = store_.OffsetOf(store_.ClusterOf(range.offset) + 1) - range.offset;
    Extent extent;
    const int rc =
        Read({range.offset, by_table ? std::min(range.length, edge) : range.length}, &extent);
    if (rc == 0) (extent.kind == Extent::Kind::kZero ? *done : *by_hand) = extent.length;
    return rc;
  }
  const std::lock_guard lock(mutex_);
  Mapping::Slice slice;
  if (const int rc = mapping_.Lookup(disk.first, &slice); rc < 0) return rc;
  const uint64_t end = in_flight_.FirstIn({disk.first, std::min(disk.count, slice.count)});
  if (end == disk.first) return -EBUSY;
  const Run part{disk.first, end - disk.first};
  if (slice.entries != nullptr || backing_.image != nullptr) {
    const Clearing how = unmap ? Clearing::kUnmap : Clearing::kKeepRoom;
    if (const int rc = Clear(part, how); rc < 0) return rc;
  }
  *done = std::min(range.length, store_.OffsetOf(part.count));
  return 0;
}

uint64_t Qcow2Image::Cleared(uint64_t old, Clearing how) const {
  const Cluster cluster = Named(old);
  const uint64_t zeroes = backing_.image == nullptr ? 0 : kZeroFlag;
  const bool roomless_zero = cluster.kind == Kind::kZero && cluster.offset == 0;
  if (roomless_zero || (cluster.kind == Kind::kUnallocated && how == Clearing::kDiscard))
    return old;
  const bool keeps = how == Clearing::kKeepRoom && store_.header.version >= 3 &&
                     cluster.kind != Kind::kCompressed && HasPlace(cluster);
  return keeps ? old | kZeroFlag : zeroes;
}

/// `disk` is of one L2 table. Bad entries stay as they are, and are told.
int Qcow2Image::Clear(Run disk, Clearing how) {
  if (allocator_.many_frees())
    if (const int rc = FlushLocked(); rc < 0) return rc;
  if (const int rc = mapping_.Own(disk.first); rc < 0) return rc;
  int rc = 0;
  for (uint64_t at = disk.first; at < disk.end(); ++at) {
    const uint64_t entry = mapping_.Get(at);
    const Cluster old = Named(entry);
    if (old.kind == Kind::kBad) rc = -EIO;
    const uint64_t cleared = old.kind == Kind::kBad ? entry : Cleared(entry, how);
    if (cleared == entry) continue;
    mapping_.Set(at, cleared);
    if ((cleared & kOffsetMask) == 0) Release(old);
  }
  return rc;
}

/// Nothing of the disk names the cluster any more. What tables lie in is never given away.
void Qcow2Image::Release(const Cluster& old) {
  if (old.offset == 0 || old.kind == Kind::kBad) return;
  const uint64_t last = old.offset + std::max<uint64_t>(old.length, 1) - 1;
  const uint64_t first = store_.ClusterOf(old.offset);
  const Run run{first, store_.ClusterOf(last) + 1 - first};
  if (!store_.metadata.Overlaps(run)) allocator_.FreeLater(run);
}

int Qcow2Image::Flush() {
  const std::lock_guard lock(mutex_);
  return readonly_ ? 0 : FlushLocked();
}

int Qcow2Image::FlushLocked() {
  int rc = mapping_.Write();
  if (rc < 0 || !allocator_.has_frees()) return rc;
  rc = store_.Sync();
  return rc == 0 ? allocator_.CommitFrees() : rc;
}

}  // namespace vmm::qcow2
