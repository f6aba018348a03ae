#include "host_cpus.h"

#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

namespace vmm {
namespace {

int AffinityCpus() {
  cpu_set_t set;
  // It fails on hosts with more CPUs than the set holds, and those have plenty.
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : CPU_SETSIZE;
}

}  // namespace

int QuotaCpus(const std::string& self_cgroup, const std::string& root) {
  std::string path;
  std::ifstream self(self_cgroup);
  for (std::string line; std::getline(self, line);)
    if (line.rfind("0::", 0) == 0) path = line.substr(3);
  int cpus = CPU_SETSIZE;
  for (;;) {
    std::ifstream max(root + path + "/cpu.max");
    std::string quota;
    long period = 0;
    if (max >> quota >> period && quota != "max" && period > 0)
      cpus = std::min(cpus, static_cast<int>(std::strtol(quota.c_str(), nullptr, 10) / period));
    if (path.empty()) return cpus;
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

int UsableCpus() {
  const int quota = QuotaCpus("/proc/self/cgroup", "/sys/fs/cgroup");
  return std::max(1, std::min(AffinityCpus(), quota));
}

}  // namespace vmm
