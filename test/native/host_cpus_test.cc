#include "../../native/sys/host_cpus.h"

#include <sched.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "check.h"

namespace {

namespace fs = std::filesystem;

constexpr int kUnlimited = CPU_SETSIZE;

/// A cgroup file system with the process in /a/b; each group has the `cpu.max` given, if any.
class CgroupFs {
 public:
  CgroupFs(const char* root_max, const char* a_max, const char* b_max) {
    std::string name = fs::temp_directory_path() / "cgroup-XXXXXX";
    CHECK(mkdtemp(name.data()) != nullptr);
    root_ = name;
    fs::create_directories(root_ / "a/b");
    Write(root_ / "self", "3:cpu:/old\n0::/a/b\n");
    Write(root_ / "cpu.max", root_max);
    Write(root_ / "a/cpu.max", a_max);
    Write(root_ / "a/b/cpu.max", b_max);
  }
  ~CgroupFs() { fs::remove_all(root_); }
  int Quota() const { return vmm::QuotaCpus(root_ / "self", root_); }

 private:
  static void Write(const fs::path& path, const char* text) {
    if (text != nullptr) std::ofstream(path) << text;
  }
  fs::path root_;
};

void Quotas() {
  CHECK(CgroupFs(nullptr, nullptr, nullptr).Quota() == kUnlimited);
  CHECK(CgroupFs(nullptr, nullptr, "max 100000\n").Quota() == kUnlimited);
  CHECK(CgroupFs(nullptr, nullptr, "250000 100000\n").Quota() == 2);
  CHECK(CgroupFs(nullptr, "100000 100000\n", "300000 100000\n").Quota() == 1);
  CHECK(CgroupFs(nullptr, "300000 100000\n", "100000 100000\n").Quota() == 1);
  CHECK(CgroupFs("100000 100000\n", "max 100000\n", nullptr).Quota() == 1);
  CHECK(CgroupFs(nullptr, nullptr, "50000 100000\n").Quota() == 0);
  CHECK(CgroupFs(nullptr, nullptr, "not a number\n").Quota() == kUnlimited);
  CHECK(vmm::QuotaCpus("/nonexistent", "/nonexistent") == kUnlimited);
}

void Affinity() {
  cpu_set_t before, one;
  CHECK(sched_getaffinity(0, sizeof(before), &before) == 0);
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(sched_getcpu()), &one);
  CHECK(sched_setaffinity(0, sizeof(one), &one) == 0);
  CHECK(vmm::UsableCpus() == 1);
  CHECK(sched_setaffinity(0, sizeof(before), &before) == 0);
  CHECK(vmm::UsableCpus() >= 1 && vmm::UsableCpus() <= CPU_COUNT(&before));
}

}  // namespace

int main() {
  Test("the tightest quota on the way to the root counts", Quotas);
  Test("the affinity mask counts", Affinity);
}
