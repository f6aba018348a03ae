/// Whenever a process that writes to an image is killed, QEMU finds nothing worse in it than
/// clusters that nobody uses, and all that was flushed is there.

#include <signal.h>
#include <sys/wait.h>

#include "qcow2_model.h"

namespace {

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
  Test("a process that is killed, 200 times, leaves a sound image with all that was flushed",
       ProcessDies);
}
