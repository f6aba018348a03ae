#pragma once
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "../../native/engines/vsock.h"
#include "../../native/sys/unix_listener.h"
#include "check.h"
#include "flag.h"
#include "vsock_guest.h"

/// A program of the host, at its end of a stream. What does not come in time is not there.
class HostSocket {
 public:
  static constexpr int kTimeoutMs = 10'000;

  explicit HostSocket(vmm::Fd fd) : fd_(std::move(fd)) {}
  static HostSocket Connect(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    vmm::Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
    return HostSocket(std::move(fd));
  }

  int fd() const { return fd_.get(); }
  void Send(const std::string& bytes) const {
    CHECK(send(fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(bytes.size()));
  }
  /// Its own descriptor comes along.
  void SendWithFd(std::string bytes) const {
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
    iovec piece{bytes.data(), bytes.size()};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* const part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    const int own = fd();
    std::memcpy(CMSG_DATA(part), &own, sizeof(own));
    CHECK(sendmsg(fd(), &message, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()));
  }
  bool MaySend() const { return send(fd(), "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1; }
  /// As many bytes; fewer at the end of the stream.
  std::string Read(size_t count) const {
    std::string bytes(count, '\0');
    size_t got = 0;
    while (got < count) {
      CHECK(HasNews(kTimeoutMs));
      const ssize_t n = recv(fd(), bytes.data() + got, count - got, 0);
      if (n <= 0) break;
      got += static_cast<size_t>(n);
    }
    return bytes.substr(0, got);
  }
  /// What is there now.
  std::string ReadSome() const {
    std::string bytes(1 << 20, '\0');
    const ssize_t n = recv(fd(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    return bytes.substr(0, n > 0 ? static_cast<size_t>(n) : 0);
  }
  bool AtEnd() const { return Read(1).empty(); }
  bool HasNews(int timeout_ms) const {
    pollfd ready{fd(), POLLIN, 0};
    return poll(&ready, 1, timeout_ms) == 1;
  }
  void EndWrite() const { CHECK(shutdown(fd(), SHUT_WR) == 0); }
  void Close() { fd_ = vmm::Fd(); }

 private:
  vmm::Fd fd_;
};

/// A device between a guest and programs of the host.
class VsockBench {
 public:
  explicit VsockBench(uint16_t rooms = VsockGuest::kSize, bool event_idx = true,
                      uint32_t greeting_timeout_ms = 60'000,
                      std::shared_ptr<const vmm::DmaSpace> space = nullptr)
      : guest(rooms, event_idx, std::move(space)) {
    CHECK(mkdtemp(folder_) != nullptr);
    CHECK(vmm::ListenUnix(path(), &listener_).ok());
    vmm::VsockOptions options;
    options.id = "_vsock0";
    options.cid = VsockGuest::kCid;
    options.listener = listener_.get();
    options.socket_path = path();
    options.greeting_timeout_ms = greeting_timeout_ms;
    options.on_warning = [this](const std::string& message) { warnings.push_back(message); };
    engine_ = std::make_unique<vmm::VsockEngine>(options);
    CHECK(engine_->Start(guest.rx(), guest.tx()) == 0);
  }
  ~VsockBench() {
    Stop();
    std::filesystem::remove_all(folder_);
  }

  vmm::VsockEngine& engine() { return *engine_; }
  void Pause() {
    Flag paused;
    engine_->Pause(paused.Setter());
    CHECK(paused.Await());
  }
  void Stop() {
    Flag ended;
    engine_->Stop(ended.Setter());
    CHECK(ended.Await());
    engine_->Join();
  }

  std::string path() const { return std::string(folder_) + "/socket"; }
  HostSocket Dial() const { return HostSocket::Connect(path()); }
  vmm::Fd ListenAt(uint32_t port) const {
    vmm::Fd listener;
    CHECK(vmm::ListenUnix(path() + "_" + std::to_string(port), &listener).ok());
    return listener;
  }
  static HostSocket AcceptAt(const vmm::Fd& listener) {
    pollfd ready{listener.get(), POLLIN, 0};
    CHECK(poll(&ready, 1, HostSocket::kTimeoutMs) == 1);
    return HostSocket(vmm::Fd(accept(listener.get(), nullptr, nullptr)));
  }

  /// A client of the host that is connected to `guest_port`, from `*host_port`.
  HostSocket ConnectIn(uint32_t guest_port, uint32_t* host_port) {
    HostSocket client = Dial();
    client.Send("CONNECT " + std::to_string(guest_port) + "\n");
    const std::optional<Packet> request = guest.Receive();
    CHECK(request.has_value() && request->header.op == VIRTIO_VSOCK_OP_REQUEST);
    CHECK(request->header.dst_port == guest_port);
    *host_port = request->header.src_port;
    guest.Send(VIRTIO_VSOCK_OP_RESPONSE, guest_port, *host_port);
    const std::string line = "OK " + std::to_string(*host_port) + "\n";
    CHECK(client.Read(line.size()) == line);
    return client;
  }
  /// A socket of the guest that is connected to `host_port`, where `listener` listens.
  HostSocket ConnectOut(const vmm::Fd& listener, uint32_t guest_port, uint32_t host_port) {
    guest.Send(VIRTIO_VSOCK_OP_REQUEST, guest_port, host_port);
    guest.Expect(VIRTIO_VSOCK_OP_RESPONSE, guest_port, host_port);
    return AcceptAt(listener);
  }

  VsockGuest guest;
  std::vector<std::string> warnings;  // read it when the engine has stopped

 private:
  char folder_[24] = "/tmp/vsock-test-XXXXXX";
  vmm::Fd listener_;
  std::unique_ptr<vmm::VsockEngine> engine_;
};
