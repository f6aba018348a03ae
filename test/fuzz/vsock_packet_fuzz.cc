/// Fuzz target: packets of a vsock device. The driver sends what it likes and offers what room it
/// likes, while clients of the host come, talk and go. Whatever they do, the device ends each
/// round, keeps to its buffers, and what it sends is a packet of its own to this guest.

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "../../native/engines/vsock_work.h"
#include "../../native/sys/unix_listener.h"
#include "driver_ring.h"

namespace {

constexpr uint64_t kCid = 3;
constexpr uint16_t kSize = 8;
constexpr uint64_t kRoomsGpa = 0x1000, kRoomBytes = 0x100, kPacketGpa = 0x2000;
constexpr uint32_t kPieceBytesMax = 0x1f00;
constexpr uint16_t kPiecesMax = kSize - 2;
constexpr uint32_t kListenedPort = 1, kFirstClientPort = 1U << 30;
constexpr int kStepsMax = 64, kRepeatsMax = 16;
constexpr size_t kHostsMax = 8;

/// Made once, for all inputs.
struct Host {
  Host() {
    HOLDS(mkdtemp(folder) != nullptr);
    HOLDS(vmm::ListenUnix(path(), &listener).ok());
    HOLDS(vmm::ListenUnix(path() + "_" + std::to_string(kListenedPort), &server).ok());
  }
  ~Host() { std::filesystem::remove_all(folder); }
  std::string path() const { return std::string(folder) + "/socket"; }
  vmm::Fd Accept(const vmm::Fd& from) const {
    return vmm::Fd(accept4(from.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  }
  /// Whoever still waits is of an input that has ended.
  void TurnAway() const {
    for (const vmm::Fd* from : {&listener, &server})
      while (Accept(*from).ok()) {
      }
  }

  char folder[24] = "/tmp/vsock-fuzz-XXXXXX";
  vmm::Fd listener, server;
  const std::shared_ptr<vmm::EventFd> kicks[2] = {std::make_shared<vmm::EventFd>(),
                                                  std::make_shared<vmm::EventFd>()};
};

class Harness {
 public:
  Harness(FuzzedDataProvider* input, const Host& host)
      : input_(*input),
        host_(host),
        work_(std::make_unique<vmm::VsockWork>(Options(host), rx_.Device(host.kicks[0]),
                                               tx_.Device(host.kicks[1]))) {
    HOLDS(work_->Open() == 0);
  }

  void Run() {
    for (int step = 0; step < kStepsMax && input_.remaining_bytes() > 0; ++step) {
      Step();
      work_->Round(false);
      CheckUsed();
    }
  }

 private:
  static vmm::VsockOptions Options(const Host& host) {
    return {"_vsock0", kCid, host.listener.get(), host.path(), 60'000, [](const std::string&) {}};
  }

  void Step() {
    switch (input_.ConsumeIntegralInRange<int>(0, 9)) {
      case 0:
      case 1:
      case 2:
        return SendPacket();
      case 3:
        return SendAgain();
      case 4:
      case 5:
        return OfferRoom();
      case 6:
        return Dial();
      case 7:
        return Accept();
      case 8:
        return Talk();
      default:
        if (!Rarely(&input_)) return;
        corrupt_ = true;
        (input_.ConsumeBool() ? rx_ : tx_).Corrupt(&input_);
    }
  }

  uint32_t DrawPort() {
    const uint32_t port = input_.ConsumeIntegralInRange<uint32_t>(0, 3);
    return port <= kListenedPort ? port : kFirstClientPort + port - 2;
  }
  uint32_t DrawBytes(uint32_t usual) {
    return Rarely(&input_) ? input_.ConsumeIntegral<uint32_t>() : usual;
  }

  void SendPacket() {
    vmm::VsockHeader header{};
    const auto pieces = input_.ConsumeIntegralInRange<uint16_t>(1, kPiecesMax);
    const auto piece_bytes = input_.ConsumeIntegralInRange<uint32_t>(0, kPieceBytesMax);
    header.src_cid = Rarely(&input_) ? input_.ConsumeIntegral<uint64_t>() : kCid;
    header.dst_cid = Rarely(&input_) ? input_.ConsumeIntegral<uint64_t>() : vmm::kVsockHostCid;
    header.src_port = input_.ConsumeIntegralInRange<uint32_t>(0, 1);
    header.dst_port = DrawPort();
    header.len = DrawBytes(pieces * piece_bytes);
    header.type = Rarely(&input_) ? input_.ConsumeIntegral<uint16_t>() : 1;
    header.op = input_.ConsumeBool() ? uint16_t{VIRTIO_VSOCK_OP_RW}
                                     : input_.ConsumeIntegralInRange<uint16_t>(0, 8);
    header.flags = input_.ConsumeIntegralInRange<uint32_t>(0, 3);
    header.buf_alloc = DrawBytes(input_.ConsumeBool() ? 0x10000 : 100);
    header.fwd_cnt = DrawBytes(0);
    HOLDS(memory_->CopyIn(kPacketGpa, &header, sizeof(header)) == 0);
    // The payload is a piece of RAM several times, for a packet may be larger than our RAM.
    const auto cut = input_.ConsumeIntegralInRange<uint32_t>(0, sizeof(header));
    tx_.Describe(0, {kPacketGpa, cut, vmm::kDescriptorNext, 1});
    tx_.Describe(1, {kPacketGpa + cut, static_cast<uint32_t>(sizeof(header)) - cut,
                     vmm::kDescriptorNext, 2});
    for (uint16_t i = 0; i < pieces; ++i) {
      const bool last = i + 1 == pieces;
      tx_.Describe(static_cast<uint16_t>(2 + i),
                   {kPacketGpa + sizeof(header), piece_bytes,
                    last ? uint16_t{0} : vmm::kDescriptorNext, static_cast<uint16_t>(3 + i)});
    }
    tx_.Offer(0);
  }
  /// As often as it takes to send more than there is credit for.
  void SendAgain() {
    for (int i = input_.ConsumeIntegralInRange<int>(1, kRepeatsMax); i > 0; --i) {
      tx_.Offer(0);
      work_->Round(false);
      CheckUsed();
    }
  }
  void OfferRoom() {
    const uint16_t head = next_room_++ % kSize;
    const auto bytes = static_cast<uint32_t>(
        Rarely(&input_) ? input_.ConsumeIntegralInRange<uint32_t>(0, 64) : kRoomBytes);
    rx_.Describe(head, {kRoomsGpa + kRoomBytes * head, bytes, vmm::kDescriptorWrite, 0});
    rx_.Offer(head);
  }

  void Keep(vmm::Fd socket) {
    if (hosts_.size() == kHostsMax) hosts_.erase(hosts_.begin());
    if (socket.ok()) hosts_.push_back(std::move(socket));
  }
  void Dial() {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    host_.path().copy(address.sun_path, sizeof(address.sun_path) - 1);
    vmm::Fd client(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    HOLDS(connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
    const std::string line =
        Rarely(&input_) ? input_.ConsumeRandomLengthString(64)
                        : "CONNECT " + std::to_string(input_.ConsumeIntegralInRange(0, 1)) + "\n";
    send(client.get(), line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    Keep(std::move(client));
  }
  void Accept() { Keep(host_.Accept(host_.server)); }
  void Talk() {
    if (hosts_.empty()) return;
    const size_t which = input_.ConsumeIntegralInRange<size_t>(0, hosts_.size() - 1);
    const int fd = hosts_[which].get();
    static char bytes[1 << 14];
    switch (input_.ConsumeIntegralInRange<int>(0, 4)) {
      case 0:
        hosts_.erase(hosts_.begin() + static_cast<ptrdiff_t>(which));
        return;
      case 1:
        shutdown(fd, input_.ConsumeIntegralInRange<int>(0, 2));
        return;
      case 2:
        while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
        }
        return;
      default:
        send(fd, bytes, input_.ConsumeIntegralInRange<size_t>(1, sizeof(bytes)),
             MSG_NOSIGNAL | MSG_DONTWAIT);
    }
  }

  /// A driver that corrupts its rings may have anything written into them.
  void CheckUsed() {
    if (corrupt_) return;
    for (uint32_t used[2]; rx_.TakeUsed(used);) {
      HOLDS(used[0] < kSize);
      if (used[1] == 0) continue;
      HOLDS(used[1] >= sizeof(vmm::VsockHeader) && used[1] <= kRoomBytes);
      vmm::VsockHeader header{};
      HOLDS(memory_->CopyOut(kRoomsGpa + kRoomBytes * used[0], &header, sizeof(header)) == 0);
      HOLDS(header.dst_cid == kCid && used[1] == sizeof(header) + header.len);
      HOLDS(header.op >= VIRTIO_VSOCK_OP_REQUEST && header.op <= VIRTIO_VSOCK_OP_CREDIT_REQUEST);
      HOLDS(header.len == 0 || header.op == VIRTIO_VSOCK_OP_RW);
    }
    for (uint32_t used[2]; tx_.TakeUsed(used);) HOLDS(used[0] < kSize && used[1] == 0);
  }

  FuzzedDataProvider& input_;
  const Host& host_;
  const std::shared_ptr<vmm::GuestMemory> memory_ = ZeroedRam();
  Ring rx_{memory_, 0x100, kSize}, tx_{memory_, 0x400, kSize};
  std::unique_ptr<vmm::VsockWork> work_;
  std::vector<vmm::Fd> hosts_;
  uint16_t next_room_ = 0;
  bool corrupt_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Host host;
  FuzzedDataProvider input(data, size);
  Harness(&input, host).Run();
  host.TurnAway();
  return 0;
}
