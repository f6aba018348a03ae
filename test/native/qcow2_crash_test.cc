/// Whatever of an image has reached the disk when the host dies, QEMU finds nothing worse in it
/// than clusters that nobody uses, and all that was flushed is there.

#include "qcow2_model.h"

namespace {

/// The disk under an image's file: since the last sync, any part of what was written may be on it.
class Medium {
 public:
  using Change = SeenFile::Change;
  explicit Medium(const std::string& path) {
    const vmm::Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat stat {};
    CHECK(fd.ok() && fstat(fd.get(), &stat) == 0);
    stable_.resize(static_cast<size_t>(stat.st_size));
    CHECK(read(fd.get(), stable_.data(), stable_.size()) == stat.st_size);
  }

  void See(Change change, uint64_t offset, uint64_t length, const std::byte* bytes) {
    if (change == Change::kSync) {
      for (const Op& op : ops_) Apply(op, 0, op.length, &stable_);
      ops_.clear();
      return;
    }
    ops_.push_back({change, offset, length, {}});
    if (change == Change::kWrite) ops_.back().bytes.assign(bytes, bytes + length);
  }

  /// One of the states in which a loss of power might leave the disk. Sectors are never torn.
  void WriteCrashed(const std::string& path, std::mt19937_64* random) const {
    std::vector<std::byte> file = stable_;
    const uint64_t luck = Draw(random, 4);  // 0: nothing more is there; 3: all is
    for (const Op& op : ops_) {
      const uint64_t step = op.change == Change::kWrite ? 512 : op.length;
      for (uint64_t at = 0; at < op.length; at += step)
        if (Draw(random, 3) < luck) Apply(op, at, std::min(step, op.length - at), &file);
    }
    const vmm::Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    CHECK(fd.ok() && ftruncate(fd.get(), static_cast<off_t>(file.size())) == 0);
    constexpr size_t kBlock = 65536;
    const std::vector<std::byte> zeroes(kBlock);
    for (size_t at = 0; at < file.size(); at += kBlock) {
      const size_t length = std::min(kBlock, file.size() - at);
      if (std::memcmp(&file[at], zeroes.data(), length) == 0) continue;
      CHECK(pwrite(fd.get(), &file[at], length, static_cast<off_t>(at)) ==
            static_cast<ssize_t>(length));
    }
  }

 private:
  struct Op {
    Change change;
    uint64_t offset, length;
    std::vector<std::byte> bytes;
  };
  static void Apply(const Op& op, uint64_t from, uint64_t length, std::vector<std::byte>* file) {
    if (op.change == Change::kResize) return file->resize(op.length);
    const uint64_t begin = op.offset + from;
    if (file->size() < begin + length) file->resize(begin + length);
    const auto at = file->begin() + static_cast<ptrdiff_t>(begin);
    if (op.change == Change::kWrite)
      std::copy_n(op.bytes.begin() + static_cast<ptrdiff_t>(from), length, at);
    else
      std::fill_n(at, length, std::byte{0});
  }

  std::vector<std::byte> stable_;
  std::vector<Op> ops_;
};

struct Load {
  const char* options;
  const char* between;  // sessions; the image stands behind it
  uint64_t size_bytes;
  uint64_t sectors_max;  // of a request
  bool each_sync;        // not where there are too many
};

constexpr Load kLoads[] = {
    // The refcount table of the first has to grow.
    {"-o cluster_size=512,refcount_bits=64", "true", 3 << 20, 512, false},
    {"-o cluster_size=512,compat=0.10", "true", 1 << 20, 64, false},
    {"-o cluster_size=4k,refcount_bits=1", "true", 4 << 20, 64, false},
    {"-o cluster_size=4k", "qemu-img snapshot -c before", 4 << 20, 64, true},
    {"", "true", 8 << 20, 300, true},
};
constexpr int kSessions = 3;
constexpr int kRequests = 60;

/// How many crashes are tried out before a change is made.
class Crashes {
 public:
  Crashes(bool each_sync, std::mt19937_64* random) : each_sync_(each_sync), random_(*random) {}

  int Before(SeenFile::Change change, uint64_t offset) {
    if (change == SeenFile::Change::kWrite && offset == kTableNameAt) after_name_ = kAfterName;
    if (after_name_ > 0) return --after_name_, kTries;
    return (each_sync_ && change == SeenFile::Change::kSync) || Draw(&random_, 18) == 0 ? 1 : 0;
  }

 private:
  /// Where the header names the refcount table. Little goes on around that, and it is worth a look.
  static constexpr uint64_t kTableNameAt = 48;
  static constexpr int kAfterName = 8;
  static constexpr int kTries = 12;

  const bool each_sync_;
  std::mt19937_64& random_;
  int after_name_ = 0;
};

/// An image is opened, written to and closed, and crashes are tried out while it goes on.
void Session(const std::string& path, const std::string& crashed, const Load& load, Model* model,
             std::mt19937_64* random) {
  Medium medium(path);
  Crashes crashes(load.each_sync, random);
  const auto see = [&](SeenFile::Change change, uint64_t offset, uint64_t length,
                       const std::byte* bytes) {
    for (int left = crashes.Before(change, offset); left > 0; --left) {
      medium.WriteCrashed(crashed, random);
      CHECK(IsSound(crashed));
      CHECK(model->IsAfterCrash(Disk(crashed, true).ReadAll()));
    }
    medium.See(change, offset, length, bytes);
    return 0;
  };
  const Disk disk(path, false, see);
  for (int i = 0; i < kRequests; ++i)
    CHECK(DoSomething(disk, model, random, load.sectors_max) == 0);
  CHECK(model->IsNow(disk.ReadAll()) && disk.Flush() == 0);
  model->Flushed();
}

void Crash(const Folder& folder, const Load& load) {
  const std::string size = std::to_string(load.size_bytes);
  const std::string path = MadeImage(folder, "image", load.options, size);
  std::mt19937_64 random(load.size_bytes + load.sectors_max);
  Model model(load.size_bytes);
  for (int session = 0; session < kSessions; ++session) {
    Session(path, folder / "crashed", load, &model, &random);
    Shell(std::string(load.between) + " " + path);
  }
  CHECK(IsClean(path));
}

void HostDies() {
  const Folder folder;
  for (const Load& load : kLoads) Crash(folder, load);
}

/// What is copied around a write must not be lost with it.
void HostDiesOverBacking() {
  const Folder folder;
  const std::string raw = folder / "base";
  Model model(1 << 20);
  {
    const std::vector<std::byte> base = model.Write(0, model.count());
    FILE* file = fopen(raw.c_str(), "w");
    CHECK(file != nullptr && fwrite(base.data(), 1, base.size(), file) == base.size());
    fclose(file);
    model.Flushed();
  }
  const std::string path = MadeImage(folder, "image", "-o cluster_size=4k -F raw -b " + raw, "1M");
  const std::string crashed = folder / "crashed";
  Medium medium(path);
  std::mt19937_64 random(11);
  const Disk disk = Disk::Over(
      path, raw,
      [&](SeenFile::Change change, uint64_t offset, uint64_t length, const std::byte* bytes) {
        medium.See(change, offset, length, bytes);
        if (Draw(&random, 6) > 0) return 0;
        medium.WriteCrashed(crashed, &random);
        CHECK(IsSound(crashed) && model.IsAfterCrash(Disk::Over(crashed, raw).ReadAll()));
        return 0;
      });
  for (int i = 0; i < 150; ++i) CHECK(DoSomething(disk, &model, &random, 16) == 0);
}

}  // namespace

int main() {
  Test("a host that dies leaves a sound image with all that was flushed", HostDies);
  Test("and what a backing file has around what was written", HostDiesOverBacking);
}
