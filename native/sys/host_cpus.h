#pragma once
#include <string>

namespace vmm {

/// How many CPUs this process may really use at once: the affinity mask and the cgroup's quota,
/// whichever is less; at least 1.
int UsableCpus();

/// The tightest `cpu.max` of cgroup v2, rounded down, from the process's own group, as its
/// `self_cgroup` file names it, up to the `root` of the cgroup file system; many if there is none.
int QuotaCpus(const std::string& self_cgroup, const std::string& root);

}  // namespace vmm
