#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "qcow2_format.h"

namespace vmm::qcow2 {

/// Which clusters of the file hold the tables that are written: nothing else may be written there,
/// whatever entries say. Eight bytes a table, however many there are.
class Metadata {
 public:
  /// False if something of it is there already.
  [[nodiscard]] bool Add(Run run) {
    if (Overlaps(run)) return false;
    if (run.count != 1) return ranges_.push_back(run), true;
    clusters_.insert(std::lower_bound(clusters_.begin(), clusters_.end(), run.first), run.first);
    return true;
  }
  /// Single clusters at once. False if two are the same, or one is there already.
  [[nodiscard]] bool AddAll(const std::vector<uint64_t>& clusters) {
    for (const uint64_t cluster : clusters)
      if (Overlaps({cluster, 1})) return false;
    clusters_.insert(clusters_.end(), clusters.begin(), clusters.end());
    std::sort(clusters_.begin(), clusters_.end());
    return std::adjacent_find(clusters_.begin(), clusters_.end()) == clusters_.end();
  }
  /// What was added by one call.
  void Remove(Run run) {
    const auto same = [run](const Run& range) { return range.first == run.first; };
    if (run.count != 1) return void(std::erase_if(ranges_, same));
    const auto at = std::lower_bound(clusters_.begin(), clusters_.end(), run.first);
    if (at != clusters_.end() && *at == run.first) clusters_.erase(at);
  }
  bool Overlaps(Run run) const {
    for (const Run& range : ranges_)
      if (run.first < range.end() && range.first < run.end()) return true;
    const auto at = std::lower_bound(clusters_.begin(), clusters_.end(), run.first);
    return at != clusters_.end() && *at < run.end();
  }

 private:
  std::vector<Run> ranges_;         // the L1 table and the refcount table
  std::vector<uint64_t> clusters_;  // sorted
};

}  // namespace vmm::qcow2
