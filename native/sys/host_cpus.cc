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

/// The tightest `cpu.max` of cgroup v2 from the process's own group up to the root.
int QuotaCpus() {
  std::string path;
  std::ifstream self("/proc/self/cgroup");
  for (std::string line; std::getline(self, line);)
    if (line.rfind("0::", 0) == 0) path = line.substr(3);
  int cpus = CPU_SETSIZE;
  while (!path.empty()) {
    std::ifstream max("/sys/fs/cgroup" + path + "/cpu.max");
    std::string quota;
    long period = 0;
    if (max >> quota >> period && quota != "max" && period > 0)
      cpus = std::min(cpus, static_cast<int>(std::strtol(quota.c_str(), nullptr, 10) / period));
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
  return cpus;
}

}  // namespace

int UsableCpus() { return std::max(1, std::min(AffinityCpus(), QuotaCpus())); }

}  // namespace vmm
