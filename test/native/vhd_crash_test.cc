#include <sys/syscall.h>

#include <map>
#include <random>
#include <set>

#include "vhd_disk.h"

namespace {

/// A change of a file, as it was asked of the kernel.
struct Operation {
  enum class Kind : uint8_t { kWrite, kResize, kSync };
  Kind kind = Kind::kSync;
  uint64_t offset = 0;
  uint64_t length = 0;
  Data data = {};  // of kWrite
};
std::vector<Operation>* recorded;  // null unless a test wants to know
using Kind = Operation::Kind;

void Record(Operation operation) {
  if (recorded != nullptr) recorded->push_back(std::move(operation));
}

}  // namespace

// These stand in for the C library's, for all of this executable.

extern "C" ssize_t pwrite(int fd, const void* from, size_t length, off_t offset) {
  const auto* bytes = static_cast<const std::byte*>(from);
  Record({Kind::kWrite, static_cast<uint64_t>(offset), length, Data(bytes, bytes + length)});
  return syscall(SYS_pwrite64, fd, from, length, offset);
}

extern "C" int ftruncate(int fd, off_t length) noexcept {
  Record({Kind::kResize, static_cast<uint64_t>(length)});
  return static_cast<int>(syscall(SYS_ftruncate, fd, length));
}

extern "C" int fdatasync(int fd) {
  Record({Kind::kSync});
  return static_cast<int>(syscall(SYS_fdatasync, fd));
}

namespace {

constexpr uint64_t kSizeBytes = 8 << 20;
constexpr uint64_t kUnitBytes = 4096;
constexpr uint64_t kUnits = kSizeBytes / kUnitBytes;

/// What a unit of the disk holds: its number in all of its bytes, 0 if nothing.
using Stamp = uint8_t;

/// A write of the guest's, or a flush, by how many operations there had been when it ended.
struct Step {
  size_t operations = 0;
  uint64_t unit = 0;
  Stamp stamp = 0;  // 0 if it is a flush
};

struct Run {
  std::vector<Operation> operations;
  std::vector<Step> steps;
  Data before;  // the file
};

/// Writes and flushes as `seed` has it, and what came of it.
Run Load(const Format& format, const std::string& path, uint32_t seed) {
  MakeImage(format, path, kSizeBytes, format.name == std::string("vhdx") ? ",block_size=1M" : "");
  Run run;
  run.before = Contents(path);
  recorded = &run.operations;
  std::minstd_rand random(seed);
  {
    Disk disk(format, path);
    for (int stamp = 1; stamp <= 16; ++stamp) {
      const uint64_t unit = random() % kUnits;
      CHECK(disk.Write(unit * kUnitBytes, Data(kUnitBytes, static_cast<std::byte>(stamp))) == 0);
      run.steps.push_back({run.operations.size(), unit, static_cast<Stamp>(stamp)});
      if (random() % 4 != 0) continue;
      CHECK(disk.Flush() == 0);
      run.steps.push_back({run.operations.size()});
    }
  }
  recorded = nullptr;
  return run;
}

void Carry(const Operation& operation, Data* file) {
  const auto at = static_cast<ptrdiff_t>(operation.offset);
  switch (operation.kind) {
    case Kind::kWrite:
      file->resize(std::max<size_t>(file->size(), operation.offset + operation.length));
      std::copy(operation.data.begin(), operation.data.end(), file->begin() + at);
      break;
    case Kind::kResize:
      file->resize(operation.offset);
      break;
    default:
      CHECK(operation.kind == Kind::kSync);
  }
}

/// Opens what a crash has left. Each unit that was written holds what it did at the last flush of
/// the first `operations`, or what was written since.
void CheckSurvives(const Format& format, const std::string& path, const Run& run, size_t operations,
                   const Data& file) {
  {
    const vmm::Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    CHECK(write(fd.get(), file.data(), file.size()) == static_cast<ssize_t>(file.size()));
  }
  std::map<uint64_t, std::set<Stamp>> allowed;
  for (const Step& step : run.steps) allowed[step.unit].insert(0);
  std::map<uint64_t, Stamp> now;
  for (const Step& step : run.steps) {
    const bool ended = step.operations <= operations;
    if (step.stamp != 0) {
      allowed[step.unit].insert(step.stamp);
      if (ended) now[step.unit] = step.stamp;
    } else if (ended) {
      for (const auto& [unit, stamp] : now) allowed[unit] = {stamp};
    }
    if (!ended) break;
  }
  Disk disk(format, path);
  for (const auto& [unit, stamps] : allowed) {
    Data found(kUnitBytes);
    CHECK(disk.Read(unit * kUnitBytes, found) == 0);
    CHECK(stamps.contains(std::to_integer<Stamp>(found[0])));
    CHECK(std::all_of(found.begin(), found.end(),
                      [&found](std::byte byte) { return byte == found[0]; }));
  }
  // It goes on working.
  CHECK(disk.Write(0, Data(kUnitBytes, std::byte{0xff})) == 0 && disk.Flush() == 0);
}

/// The process ends after any of its calls; the kernel has the rest.
void OfTheProcess() {
  for (const Format& format : {kDynamicVhd, kDynamicVhdx}) {
    const Directory directory;
    const Run run = Load(format, directory / "image", 1);
    Data file = run.before;
    for (size_t done = 0; done <= run.operations.size(); ++done) {
      CheckSurvives(format, directory / "crashed", run, done, file);
      if (done < run.operations.size()) Carry(run.operations[done], &file);
    }
  }
}

/// The host ends: of what was asked for since the last sync, any part was done.
void OfTheHost() {
  for (const Format& format : {kDynamicVhd, kDynamicVhdx}) {
    const Directory directory;
    const Run run = Load(format, directory / "image", 2);
    std::minstd_rand random(3);
    Data stable = run.before;
    size_t synced = 0;
    for (size_t done = 0; done <= run.operations.size(); ++done) {
      for (int draw = 0; draw < 2; ++draw) {
        Data file = stable;
        for (size_t i = synced; i < done; ++i)
          if (random() % 2 == 0) Carry(run.operations[i], &file);
        CheckSurvives(format, directory / "crashed", run, done, file);
      }
      if (done == run.operations.size() || run.operations[done].kind != Kind::kSync) continue;
      for (; synced <= done; ++synced) Carry(run.operations[synced], &stable);
    }
  }
}

}  // namespace

int main() {
  Test("an image survives the end of the process at any call, with all that was flushed",
       OfTheProcess);
  Test("an image survives the end of the host at any call, with all that was flushed", OfTheHost);
}
