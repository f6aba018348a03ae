#pragma once
#include <linux/aio_abi.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "file_io.h"

namespace vmm {

/// Linux AIO: for hosts where io_uring is missing or forbidden, and for buffered writes, of which
/// it carries a whole batch out in one system call. What AIO does not have is done on the spot.
class Aio final : public FileIo {
 public:
  /// 0 or a negative errno of io_setup(2). What is done signals the kick, so that there is one
  /// thing to wait for; without one, Run returns when all that was taken is done.
  [[nodiscard]] static int Open(const std::vector<File>& files, const EventFd* kick, uint16_t depth,
                                std::unique_ptr<FileIo>* out);
  ~Aio() override;
  Aio(const Aio&) = delete;
  Aio& operator=(const Aio&) = delete;

  void Submit(const FileOp& op, uint32_t tag) override;
  void Run(Until until, std::vector<Done>* done) override;

 private:
  Aio(const std::vector<File>& files, const EventFd* kick, aio_context_t context, uint16_t depth);
  void Start();
  void Reap(std::vector<Done>* done);

  const std::vector<File> files_;
  const EventFd* const kick_;
  const aio_context_t context_;
  std::vector<iocb> taken_;
  std::vector<iocb*> pointers_;  // to those, as io_submit(2) wants them
  std::vector<io_event> events_;
  std::vector<Done> done_;  // on the spot
  size_t in_flight_ = 0;
};

}  // namespace vmm
