#pragma once

namespace vmm {

/// Gives back what the process has and does not use: free heap, and pages of files mapped read-only
/// that nobody wrote. The latter come back from the page cache when they are touched. A few
/// milliseconds; any thread.
void TrimMemory();

}  // namespace vmm
