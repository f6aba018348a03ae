#include "lost_pages.h"

#include <signal.h>
#include <sys/mman.h>

#include <array>
#include <atomic>

namespace vmm {
namespace {

constexpr size_t kGuardsMax = 64;  // as many as a VM has regions
constexpr uintptr_t kPageBytes = 4096;

/// Read by a signal handler on any thread, hence no mutex. `begin` is set last and cleared first.
struct Mapping {
  std::atomic<uintptr_t> begin = 0;
  std::atomic<uintptr_t> end = 0;
  std::atomic<bool> taken = false;
};
std::array<Mapping, kGuardsMax> mappings;
struct sigaction before;

bool IsGuarded(const std::byte* touched) {
  const auto at = reinterpret_cast<uintptr_t>(touched);
  for (const Mapping& mapping : mappings) {
    const uintptr_t begin = mapping.begin.load();
    if (begin != 0 && at >= begin && at < mapping.end.load()) return true;
  }
  return false;
}

/// mmap(2) is a system call and no more: fit for a signal handler.
bool Replace(std::byte* touched) {
  std::byte* page = touched - reinterpret_cast<uintptr_t>(touched) % kPageBytes;
  return mmap(page, kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
              0) != MAP_FAILED;
}

/// A fault that is not ours comes again when this returns, and then whoever was there before has
/// it.
void OnFault(int signal, siginfo_t* info, void* /*context*/) {
  auto* at = static_cast<std::byte*>(info->si_addr);
  if (!IsGuarded(at) || !Replace(at)) sigaction(signal, &before, nullptr);
}

void Install() {
  struct sigaction action {};
  action.sa_sigaction = OnFault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, &before);
}

}  // namespace

void LostPages::Guard(std::byte* at, uint64_t size_bytes) {
  static const bool installed = (Install(), true);
  (void)installed;
  for (Mapping& mapping : mappings) {
    if (mapping.taken.exchange(true)) continue;
    const auto begin = reinterpret_cast<uintptr_t>(at);
    mapping.end.store(begin + size_bytes);
    mapping.begin.store(begin);
    return;
  }
}

void LostPages::Release(std::byte* at) {
  for (Mapping& mapping : mappings) {
    if (mapping.begin.load() != reinterpret_cast<uintptr_t>(at)) continue;
    mapping.begin.store(0);
    mapping.taken.store(false);
    return;
  }
}

}  // namespace vmm
