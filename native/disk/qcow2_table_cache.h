#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "image_file.h"

namespace vmm::qcow2 {

/// The tables of one size that were used last, and what of them is not in the file yet.
class TableCache {
 public:
  /// `tables_max`: at least 2. `write_back` makes all tables clean, in whatever order things must
  /// reach the file; it is called when a dirty table has to make room.
  TableCache(const ImageFile& file, size_t table_bytes, size_t tables_max,
             std::function<int()> write_back);

  /// Has `*out` be the table at `offset` of the file, until the next call of Load or Add. 0 or a
  /// negative errno.
  int Load(uint64_t offset, std::byte** out);
  /// As Load, of a table that is new: zeroes, and all of it dirty.
  int Add(uint64_t offset, std::byte** out);
  /// Forgets the table at `offset`, with what was changed.
  void Drop(uint64_t offset);
  /// The entry at byte `at` of the table at `offset`, which is here, was changed.
  void Touch(uint64_t offset, size_t at);

  bool dirty() const { return !dirty_.empty(); }
  /// Writes what is dirty. 0 or a negative errno; then some of it still is.
  int WriteDirty();

 private:
  struct Table {
    uint64_t offset = 0;
    std::unique_ptr<std::byte[]> bytes;
    size_t dirty_begin = 0, dirty_end = 0;  // equal if clean
  };

  int MakeRoom();
  int Insert(uint64_t offset, Table** out);
  void MarkDirty(Table* table, size_t begin, size_t end);

  const ImageFile& file_;
  const size_t table_bytes_;
  const size_t tables_max_;
  const std::function<int()> write_back_;
  std::list<Table> tables_;  // what was used last comes first
  std::unordered_map<uint64_t, std::list<Table>::iterator> by_offset_;
  std::vector<uint64_t> dirty_;  // offsets
};

}  // namespace vmm::qcow2
