#include "block.h"

#include <utility>

namespace vmm {

BlockEngine::BlockEngine(const BlockOptions& options)
    : id_(options.id), io_(options.io), host_cpus_(options.host_cpus) {
  disk_->image = options.image;
  disk_->limits = {options.image->size_bytes(), options.readonly, options.discard};
  disk_->keep_raw = options.keep_raw;
  disk_->serial = options.serial.substr(0, VIRTIO_BLK_ID_BYTES);
  disk_->writeback = options.writeback;
  disk_->limiter = options.limiter;
  disk_->counters = options.counters;
  disk_->on_error = options.on_error;
}

int BlockEngine::Start(std::vector<std::optional<EngineQueue>> queues) {
  for (size_t i = 0; i < queues.size(); ++i) {
    if (!queues[i].has_value()) continue;
    const auto kick = queues[i]->kick;
    auto open_io = [disk = disk_, kind = io_, kick](uint16_t depth) {
      const std::vector<File>& files = disk->image->files();
      auto io = OpenFileIo(kind, files, *kick, depth);
      return files[0].align_bytes > 1 ? std::make_unique<DirectIo>(std::move(io), files, disk->lock)
                                      : std::move(io);
    };
    auto work = std::make_unique<BlockQueue>(std::move(*queues[i]), disk_, std::move(open_io), i);
    const int rc =
        AddThread(id_ + "_q" + std::to_string(i),
                  i < host_cpus_.size() ? host_cpus_[i] : std::vector<uint32_t>{}, std::move(work));
    if (rc < 0) return rc;
  }
  return 0;
}

}  // namespace vmm
