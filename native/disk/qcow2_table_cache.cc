#include "qcow2_table_cache.h"

#include <errno.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace vmm::qcow2 {
namespace {

/// A few entries of a table are written as the blocks that hold them.
constexpr size_t kBlockBytes = 512;

}  // namespace

TableCache::TableCache(const ImageFile& file, size_t table_bytes, size_t tables_max,
                       std::function<int()> write_back)
    : file_(file),
      table_bytes_(table_bytes),
      tables_max_(std::max<size_t>(tables_max, 2)),
      write_back_(std::move(write_back)) {}

int TableCache::Load(uint64_t offset, std::byte** out) {
  if (const auto found = by_offset_.find(offset); found != by_offset_.end()) {
    tables_.splice(tables_.begin(), tables_, found->second);
    *out = found->second->bytes.get();
    return 0;
  }
  Table* table = nullptr;
  if (const int rc = Insert(offset, &table); rc < 0) return rc;
  const int rc = file_.Read(offset, {table->bytes.get(), table_bytes_});
  if (rc < 0) {
    Drop(offset);
    return rc;
  }
  *out = table->bytes.get();
  return 0;
}

int TableCache::Add(uint64_t offset, std::byte** out) {
  Drop(offset);
  Table* table = nullptr;
  if (const int rc = Insert(offset, &table); rc < 0) return rc;
  std::fill_n(table->bytes.get(), table_bytes_, std::byte{0});
  MarkDirty(table, 0, table_bytes_);
  *out = table->bytes.get();
  return 0;
}

void TableCache::Drop(uint64_t offset) {
  const auto found = by_offset_.find(offset);
  if (found == by_offset_.end()) return;
  if (found->second->dirty_end > 0) std::erase(dirty_, offset);
  tables_.erase(found->second);
  by_offset_.erase(found);
}

void TableCache::Touch(uint64_t offset, size_t at) {
  const size_t begin = at / kBlockBytes * kBlockBytes;
  const auto found = by_offset_.find(offset);
  if (found != by_offset_.end()) MarkDirty(&*found->second, begin, begin + kBlockBytes);
}

int TableCache::WriteDirty() {
  while (!dirty_.empty()) {
    Table& table = *by_offset_.at(dirty_.back());
    const size_t length = table.dirty_end - table.dirty_begin;
    const int rc = file_.Write(table.offset + table.dirty_begin,
                               {table.bytes.get() + table.dirty_begin, length});
    if (rc < 0) return rc;
    table.dirty_begin = table.dirty_end = 0;
    dirty_.pop_back();
  }
  return 0;
}

/// If nothing can be written, as on a full file system, what is clean makes room, so that reading
/// goes on.
int TableCache::MakeRoom() {
  while (tables_.size() >= tables_max_) {
    const int rc = tables_.back().dirty_end > 0 ? write_back_() : 0;
    const auto clean = std::find_if(tables_.rbegin(), tables_.rend(),
                                    [](const Table& table) { return table.dirty_end == 0; });
    if (clean == tables_.rend()) return rc < 0 ? rc : -EIO;
    by_offset_.erase(clean->offset);
    tables_.erase(std::next(clean).base());
  }
  return 0;
}

int TableCache::Insert(uint64_t offset, Table** out) {
  if (const int rc = MakeRoom(); rc < 0) return rc;
  tables_.push_front({offset, std::make_unique_for_overwrite<std::byte[]>(table_bytes_), 0, 0});
  by_offset_[offset] = tables_.begin();
  *out = &tables_.front();
  return 0;
}

void TableCache::MarkDirty(Table* table, size_t begin, size_t end) {
  if (table->dirty_end == 0) {
    dirty_.push_back(table->offset);
    table->dirty_begin = begin;
  }
  table->dirty_begin = std::min(table->dirty_begin, begin);
  table->dirty_end = std::max(table->dirty_end, end);
}

}  // namespace vmm::qcow2
