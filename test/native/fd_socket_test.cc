#include "../../native/sys/fd_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "../../native/sys/unix_listener.h"
#include "../../native/sys/unix_stream.h"
#include "check.h"

namespace {

using vmm::Fd;
using vmm::FdSocket;

struct Pair {
  Pair() {
    std::array<int, 2> ends{};
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
    ours = FdSocket(Fd(ends[0]));
    peer = Fd(ends[1]);
  }
  FdSocket ours{Fd()};
  Fd peer;
};

/// One message from the peer, with `count` copies of a descriptor.
void SendFds(const Fd& peer, const char* text, size_t count) {
  std::vector<int> fds(count, peer.get());
  std::vector<char> control(CMSG_SPACE(count * sizeof(int)));
  iovec bytes{const_cast<char*>(text), std::strlen(text)};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(count * sizeof(int));
  std::memcpy(CMSG_DATA(part), fds.data(), count * sizeof(int));
  CHECK(sendmsg(peer.get(), &message, 0) == static_cast<ssize_t>(bytes.iov_len));
}

size_t OpenFds() {
  size_t count = 0;
  for (int fd = 0; fd < 1024; ++fd) count += fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
  return count;
}

void ReceivesFds() {
  Pair pair;
  const size_t before = OpenFds();
  SendFds(pair.peer, "ab", 253);
  std::array<char, 8> into{};
  {
    const FdSocket::Received received = pair.ours.Receive(into.data(), into.size());
    CHECK(received.size_bytes == 2 && std::memcmp(into.data(), "ab", 2) == 0);
    CHECK(received.fds.size() == 253 && !received.fds_lost);
    for (const Fd& fd : received.fds) CHECK(fcntl(fd.get(), F_GETFD) == FD_CLOEXEC);
  }
  CHECK(OpenFds() == before);
}

void OutOfFds() {
  Pair pair;
  const size_t before = OpenFds();
  SendFds(pair.peer, "ab", 10);
  rlimit limit{};
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const rlimit few{static_cast<rlim_t>(pair.peer.get()) + 5, limit.rlim_max};
  CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
  std::array<char, 8> into{};
  const FdSocket::Received received = pair.ours.Receive(into.data(), into.size());
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK(received.size_bytes == 2 && received.fds_lost && received.fds.empty());
  CHECK(OpenFds() == before);
}

void NothingYet() {
  Pair pair;
  std::array<char, 8> into{};
  CHECK(pair.ours.Receive(into.data(), into.size()).size_bytes == -EAGAIN);
  CHECK(!pair.ours.receive_ended());
}

/// Everything arrives in order, whatever the kernel takes at a time, and then the end.
void KeepsWhatDoesNotFit() {
  Pair pair;
  std::string sent(4 << 20, '\0');
  for (size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<char>(i % 251);
  CHECK(pair.ours.Send(sent.data(), sent.size()) == 0);
  CHECK(pair.ours.Send("end", 3) == 0);
  CHECK(!pair.ours.flushed());
  CHECK(pair.ours.End() == 0);
  std::string got;
  std::vector<char> into(100'000);
  for (ssize_t n = 1; n != 0;) {
    n = read(pair.peer.get(), into.data(), into.size());
    CHECK(n >= 0);
    got.append(into.data(), static_cast<size_t>(n));
    CHECK(pair.ours.Flush() == 0);
  }
  CHECK(pair.ours.flushed() && got == sent + "end");
}

void Finishes() {
  Pair pair;
  std::array<char, 8> into{};
  CHECK(shutdown(pair.peer.get(), SHUT_WR) == 0);
  CHECK(pair.ours.Receive(into.data(), into.size()).size_bytes == 0);
  CHECK(pair.ours.receive_ended() && !pair.ours.finished());
  CHECK(pair.ours.Send("late", 4) == 0);
  CHECK(pair.ours.End() == 0 && pair.ours.finished());
  CHECK(read(pair.peer.get(), into.data(), into.size()) == 4);
}

void SendsFds() {
  Pair pair;
  const size_t before = OpenFds();
  {
    std::array<int, 2> ends{};
    CHECK(pipe2(ends.data(), O_CLOEXEC) == 0);
    const Fd reader(ends[0]), writer(ends[1]);
    CHECK(pair.ours.SendWithFds("ab", 2, std::array{writer.get()}) == 0);
    FdSocket peer(Fd(dup(pair.peer.get())));
    std::array<char, 8> into{};
    const FdSocket::Received received = peer.Receive(into.data(), into.size());
    CHECK(received.size_bytes == 2 && received.fds.size() == 1);
    CHECK(write(received.fds[0].get(), "x", 1) == 1);
    CHECK(read(reader.get(), into.data(), into.size()) == 1);
  }
  CHECK(OpenFds() == before);
}

/// What is sent with descriptors is sent at once or not at all, and in its order.
void KeepsNoFds() {
  Pair pair;
  const std::array fds{pair.peer.get()};
  CHECK(pair.ours.SendWithFds("ab", 2, std::vector<int>(254, fds[0])) == -EINVAL);
  const std::string much(4 << 20, 'x');
  CHECK(pair.ours.Send(much.data(), much.size()) == 0 && !pair.ours.flushed());
  CHECK(pair.ours.SendWithFds("ab", 2, fds) == -EAGAIN);
  std::vector<char> into(much.size());
  for (size_t got = 0; got < much.size();) {
    got += static_cast<size_t>(read(pair.peer.get(), into.data(), into.size()));
    CHECK(pair.ours.Flush() == 0);
  }
  CHECK(pair.ours.SendWithFds("ab", 2, fds) == 0);
  CHECK(read(pair.peer.get(), into.data(), into.size()) == 2);
}

void Connects() {
  std::array<char, 32> directory = {"/tmp/sock-XXXXXX"};
  CHECK(mkdtemp(directory.data()) != nullptr);
  const std::string path = std::string(directory.data()) + "/s";
  Fd stream, listener, client;
  CHECK(vmm::ConnectUnix(path, &stream).error == ENOENT);
  CHECK(vmm::ConnectUnix(std::string(108, 'x'), &stream).error == ENAMETOOLONG);
  CHECK(vmm::ConnectUnix("", &stream).error == EINVAL);
  CHECK(vmm::ListenUnix(path, &listener).ok());
  CHECK(vmm::ConnectUnix(path, &stream).ok());
  CHECK(vmm::AcceptClient(listener, &client) == 0);
  CHECK(write(stream.get(), "x", 1) == 1);
  std::array<char, 8> into{};
  CHECK(read(client.get(), into.data(), into.size()) == 1);
  CHECK(read(stream.get(), into.data(), into.size()) == -1 && errno == EAGAIN);
  listener = Fd();
  CHECK(vmm::ConnectUnix(path, &stream).error == ECONNREFUSED);
  CHECK(unlink(path.c_str()) == 0 && rmdir(directory.data()) == 0);
}

/// An error, not a signal.
void PeerGone() {
  Pair pair;
  pair.peer = Fd();
  CHECK(pair.ours.Send("x", 1) == -EPIPE);
}

void Listens() {
  std::array<char, 32> directory = {"/tmp/sock-XXXXXX"};
  CHECK(mkdtemp(directory.data()) != nullptr);
  const std::string path = std::string(directory.data()) + "/s";
  Fd bound;
  CHECK(vmm::ListenUnix(path, &bound).ok());
  CHECK(fcntl(bound.get(), F_SETFD, 0) == 0 && fcntl(bound.get(), F_SETFL, 0) == 0);
  Fd listener;
  CHECK(vmm::AdoptListener(bound.Release(), &listener).ok());
  CHECK(fcntl(listener.get(), F_GETFD) == FD_CLOEXEC);
  Fd client;
  CHECK(vmm::AcceptClient(listener, &client) == -EAGAIN);

  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const Fd other(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CHECK(connect(other.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  rlimit limit{};
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const rlimit none{3, limit.rlim_max};
  CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
  CHECK(vmm::AcceptClient(listener, &client) == -EMFILE);
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  CHECK(vmm::AcceptClient(listener, &client) == 0 && client.ok());
  unlink(path.c_str());
  rmdir(directory.data());
}

void RefusesWhatDoesNotListen() {
  const Pair pair;
  Fd listener;
  CHECK(vmm::AdoptListener(pair.peer.get(), &listener).error == EINVAL);
  CHECK(!listener.ok() && fcntl(pair.peer.get(), F_GETFD) >= 0);
  const Fd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  CHECK(vmm::AdoptListener(file.get(), &listener).error == ENOTSOCK);
  CHECK(vmm::AdoptListener(-1, &listener).error == EBADF);
}

}  // namespace

int main() {
  alarm(100);
  Test("descriptors are sent along with bytes, and stay ours", SendsFds);
  Test("what brings descriptors is not kept", KeepsNoFds);
  Test("who connects never waits, and is told that nobody listens", Connects);
  Test("descriptors come with bytes, are closed on exec and by their owner", ReceivesFds);
  Test("descriptors that there is no room for are reported, and none is kept", OutOfFds);
  Test("a quiet peer is no end of the stream", NothingYet);
  Test("what the kernel does not take is sent later, in order, before the end",
       KeepsWhatDoesNotFit);
  Test("it is finished once both sides have ended", Finishes);
  Test("a peer that is gone is an error", PeerGone);
  Test("a client waits while there is no descriptor for it", Listens);
  Test("only what listens is adopted", RefusesWhatDoesNotListen);
}
