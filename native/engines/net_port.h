#pragma once
#include <atomic>
#include <cstdint>
#include <functional>

namespace vmm {

/// What the directions of a queue pair share with each other, and with whoever looks from outside.
struct NetPort {
  int tap = -1;  // borrowed
  /// Off: the driver does not use the pair. Nothing comes from the tap, and nothing goes there.
  std::atomic<bool> on = false;
  // Of what passed, without the headers in front.
  std::atomic<uint64_t> rx_bytes = 0, tx_bytes = 0, rx_frames = 0, tx_frames = 0;
  /// The tap is gone. Any thread, once.
  std::function<void()> on_tap_gone;
};

/// What a direction waits for.
enum class NetWait {
  kNothing,
  kDriver,  // chains
  kTap,     // a frame, or room for one
  kTurn,    // its limit
  kBroken,  // nothing any more: the driver broke a rule
};

/// The most that a direction moves before it is the other's turn. Larger, one waits for the other;
/// smaller, and interrupts and looks at the tap cost more than a twentieth of a system call a
/// frame.
constexpr int kRoundFrames = 32;

}  // namespace vmm
