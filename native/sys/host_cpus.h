#pragma once

namespace vmm {

/// How many CPUs this process may really use at once: the affinity mask and the cgroup's quota,
/// whichever is less; at least 1.
int UsableCpus();

}  // namespace vmm
