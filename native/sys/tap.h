#pragma once
#include <net/ethernet.h>

#include <cstdint>
#include <string>
#include <vector>

#include "../base/fd.h"
#include "../base/status.h"

namespace vmm {

/// Of the header in front of each frame, virtio_net_hdr_v1. VIRTIO 1.2 §5.1.6.
constexpr uint32_t kFrameHeaderBytes = 12;

/// A TAP interface, open: with headers, and no file blocks.
struct Tap {
  std::string name;
  std::vector<Fd> files;  // one a queue pair
  /// It was not there before, and goes when the last of its files is closed.
  bool made = false;
};

/// Opens the interface, or makes it; of a pattern such as `vmtap%d` the kernel makes a name. A name
/// of more than 15 bytes is EINVAL. One that several may share (IFF_MULTI_QUEUE) serves one pair
/// as well.
[[nodiscard]] Status OpenTap(const std::string& name, uint32_t queue_pairs, Tap* out);

/// Of the interface of a file that somebody else opened. EINVAL if it is a tap without headers;
/// what TUNGETIFF says if it is none.
[[nodiscard]] Status NameOfTap(int fd, std::string* out);

/// Whether two descriptors of ours are one open file, duplicates, and so one queue of a tap. False
/// where the kernel does not tell (kcmp(2)).
[[nodiscard]] bool IsOneFile(int fd, int other);

/// Makes a file that NameOfTap takes one as OpenTap's: `out` is a duplicate.
[[nodiscard]] Status AdoptTap(int fd, Fd* out);

/// What the host says of the interface.
struct TapFacts {
  std::string name;
  uint32_t mtu = 0;  ///< 0 if it is in another network namespace, where nobody tells us
  ether_addr mac{};
};
[[nodiscard]] Status AskTap(int fd, TapFacts* out);

/// Whether the kernel takes UDP frames to be cut, as since Linux 6.2. Leaves all offloads off: it
/// can only be asked to.
[[nodiscard]] Status ProbeTapUso(int fd, bool* takes);

[[nodiscard]] Status SetTapMac(const std::string& name, const std::string& mac);
[[nodiscard]] Status SetTapMtu(const std::string& name, uint32_t mtu);
/// IPv4, dotted.
[[nodiscard]] Status SetTapAddress(const std::string& name, const std::string& ip,
                                   const std::string& mask);
/// Has it carry frames, if it does not yet.
[[nodiscard]] Status SetTapUp(const std::string& name);

/// TUN_F_… of linux/if_tun.h.
[[nodiscard]] Status SetTapOffloads(int fd, uint32_t offloads);
/// Has the kernel put frames into the file, or not; only of a tap with several.
[[nodiscard]] Status SetTapQueue(int fd, bool on);

}  // namespace vmm
