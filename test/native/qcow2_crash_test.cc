/// Whatever of an image has reached the disk when the host or the process dies, QEMU finds nothing
/// worse in it than clusters that nobody uses, and all that was flushed is there.

#include <signal.h>
#include <sys/wait.h>

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
};

constexpr Load kLoads[] = {
    {"-o cluster_size=512,refcount_bits=64", "true", 3 << 20, 512},  // its refcount table grows
    {"-o cluster_size=512,compat=0.10", "true", 1 << 20, 64},
    {"-o cluster_size=4k,refcount_bits=1", "true", 4 << 20, 64},
    {"-o cluster_size=4k", "qemu-img snapshot -c before", 4 << 20, 64},
    {"", "true", 8 << 20, 300},
};
constexpr int kSessions = 3;
constexpr int kRequests = 60;
constexpr uint64_t kChangesBetween = 36;  // and crashes, at most
/// Where the header names the refcount table: when that is written, crashes come one after another.
constexpr uint64_t kTableNameAt = 48;
constexpr uint64_t kInARow = 16;

/// An image is opened, written to and closed, and crashes are tried out while it goes on.
void Session(const std::string& path, const std::string& crashed, uint64_t sectors_max,
             Model* model, std::mt19937_64* random) {
  Medium medium(path);
  uint64_t left = 1;
  uint64_t in_a_row = 0;
  const Disk disk(
      path, false,
      [&](SeenFile::Change change, uint64_t offset, uint64_t length, const std::byte* bytes) {
        if (change == SeenFile::Change::kWrite && offset == kTableNameAt) in_a_row = kInARow;
        if (in_a_row > 0 || left-- == 0) {
          if (in_a_row > 0)
            --in_a_row;
          else
            left = Draw(random, kChangesBetween);
          medium.WriteCrashed(crashed, random);
          CHECK(IsSound(crashed));
          CHECK(model->IsAfterCrash(Disk(crashed, true).ReadAll()));
        }
        medium.See(change, offset, length, bytes);
        return 0;
      });
  for (int i = 0; i < kRequests; ++i) CHECK(DoSomething(disk, model, random, sectors_max) == 0);
  CHECK(model->IsNow(disk.ReadAll()) && disk.Flush() == 0);
  model->Flushed();
}

void Crash(const Folder& folder, const Load& load) {
  const std::string size = std::to_string(load.size_bytes);
  const std::string path = MadeImage(folder, "image", load.options, size);
  std::mt19937_64 random(load.size_bytes + load.sectors_max);
  Model model(load.size_bytes);
  for (int session = 0; session < kSessions; ++session) {
    Session(path, folder / "crashed", load.sectors_max, &model, &random);
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

constexpr int kKills = 200;
constexpr int kKillsPerImage = 20;
constexpr uint64_t kKilledBytes = 4 << 20;
constexpr uint64_t kLifeUs = 5000;  // at most

[[noreturn]] void WriteUntilKilled(const std::string& path, Model* model, uint64_t seed) {
  std::mt19937_64 random(seed);
  const Disk disk(path);
  for (;;)
    if (DoSomething(disk, model, &random) < 0) _exit(1);
}

void ProcessDies() {
  const Folder folder;
  std::mt19937_64 random(13);
  for (int image = 0; image < kKills / kKillsPerImage; ++image) {
    const std::string options = image % 2 == 0 ? "" : "-o cluster_size=4k,refcount_bits=64";
    const std::string path = MadeImage(folder, "image", options, std::to_string(kKilledBytes));
    Model model(kKilledBytes);
    for (int kill_number = 0; kill_number < kKillsPerImage; ++kill_number) {
      const uint64_t seed = random();
      const pid_t child = fork();
      CHECK(child >= 0);
      if (child == 0) WriteUntilKilled(path, &model, seed);
      usleep(static_cast<useconds_t>(Draw(&random, kLifeUs)));
      int status = 0;
      CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
      CHECK(WIFSIGNALED(status) && IsSound(path));
      const std::vector<std::byte> left = Disk(path, true).ReadAll();
      CHECK(model.IsAfterCrash(left));
      model.Learn(left);
    }
  }
}

}  // namespace

int main() {
  Test("a host that dies leaves a sound image with all that was flushed", HostDies);
  Test("and what a backing file has around what was written", HostDiesOverBacking);
  Test("a process that is killed, 200 times, does too", ProcessDies);
}
