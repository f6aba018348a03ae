#pragma once
#include <vector>

#include "file_io.h"

namespace vmm {

/// One operation after another, on the thread itself: what is left where the host has nothing else.
class SyncIo final : public FileIo {
 public:
  SyncIo(const std::vector<File>& files, const EventFd& kick) : files_(files), kick_(kick) {}
  void Submit(const FileOp& op, uint32_t tag) override {
    done_.push_back({tag, DoFileOp(files_[op.file], op)});
  }
  void Run(Until until, std::vector<Done>* done) override {
    if (done_.empty()) SleepUntil(kick_, until);
    done->insert(done->end(), done_.begin(), done_.end());
    done_.clear();
  }

 private:
  const std::vector<File> files_;
  const EventFd& kick_;
  std::vector<Done> done_;
};

}  // namespace vmm
