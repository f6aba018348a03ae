#pragma once
#include <vector>

#include "file_io.h"

namespace vmm {

/// One operation after another, on the thread itself: what is left where the host has nothing else.
class SyncIo final : public FileIo {
 public:
  SyncIo(const File& file, const EventFd& kick) : file_(file), kick_(kick) {}
  void Submit(const FileOp& op, uint32_t tag) override {
    done_.push_back({tag, DoFileOp(file_, op)});
  }
  void Run(bool wait, std::vector<Done>* done) override {
    if (wait && done_.empty()) kick_.Wait();
    done->insert(done->end(), done_.begin(), done_.end());
    done_.clear();
  }

 private:
  const File file_;
  const EventFd& kick_;
  std::vector<Done> done_;
};

}  // namespace vmm
