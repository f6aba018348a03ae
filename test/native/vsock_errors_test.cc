#include <errno.h>
#include <sys/syscall.h>

#include <atomic>

#include "threads.h"
#include "vsock_host.h"

/// What the host's kernel says to reads and writes of a stream that is neither bytes nor the end.
namespace {

std::atomic<int> write_error{0}, read_error{0};  // 0 if there is none
std::atomic<int> failed_writes{0};

}  // namespace

// These stand in for the C library's, for all of this executable.

extern "C" ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  const int error = write_error.load();
  if (error == 0) return syscall(SYS_sendmsg, fd, message, flags);
  ++failed_writes;
  errno = error;
  return -1;
}

extern "C" ssize_t recvmsg(int fd, msghdr* message, int flags) {
  const int error = read_error.load();
  if (error == 0) return syscall(SYS_recvmsg, fd, message, flags);
  errno = error;
  return -1;
}

namespace {

constexpr uint16_t kReset = VIRTIO_VSOCK_OP_RST, kShutdown = VIRTIO_VSOCK_OP_SHUTDOWN,
                   kPayload = VIRTIO_VSOCK_OP_RW;

/// While it lives, the calls fail with an error.
class Failing {
 public:
  Failing(std::atomic<int>* calls, int error) : calls_(calls) { *calls = error; }
  Failing(const Failing&) = delete;
  Failing& operator=(const Failing&) = delete;
  ~Failing() { *calls_ = 0; }

 private:
  std::atomic<int>* const calls_;
};

void WaitsForMemory(int error) {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  {
    const Failing failing(&write_error, error);
    bench.guest.Send(kPayload, 7, 1, "first, ");
    bench.guest.Send(kPayload, 7, 1, "second");
    failed_writes = 0;
    CHECK(bench.guest.ReceivesNothing() && !server.HasNews(300));
    CHECK(failed_writes >= 1 && failed_writes <= 10);  // again and again, but not all the time
  }
  CHECK(server.Read(13) == "first, second");
  server.Send("heard");
  CHECK(bench.guest.Expect(kPayload, 7, 1).payload == "heard");
  CHECK(Sleeps("_vsock0"));
}

void WaitsForMemoryWhenTheGuestIsGone() {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  {
    const Failing failing(&write_error, ENOBUFS);
    bench.guest.Send(kPayload, 7, 1, "last words");
    bench.guest.Send(kReset, 7, 1);
    CHECK(!server.HasNews(50));
  }
  CHECK(server.Read(11) == "last words");
}

void TellsNoGuestThatIsGone() {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  const Failing failing(&write_error, ENOBUFS);
  bench.guest.Send(kPayload, 7, 1, "last words");
  bench.guest.Send(kReset, 7, 1);

  write_error = EPERM;
  CHECK(server.AtEnd());
  CHECK(bench.guest.ReceivesNothing());
}

/// Who waits in vain, for nobody reads any more, is not tried again.
void ForgetsWhoWaitsInVain() {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  const Failing failing(&write_error, ENOBUFS);
  bench.guest.Send(kPayload, 7, 1, "in vain");

  server.Close();
  CHECK(bench.guest.Expect(kShutdown, 7, 1).header.flags == vmm::kVsockBothWays);
  usleep(200'000);  // the last try
  CHECK(Sleeps("_vsock0"));
}

void EndsTheStream(std::atomic<int>* calls, int error) {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  HostSocket other = bench.ConnectOut(listener, 8, 1);
  {
    const Failing failing(calls, error);
    if (calls == &read_error)
      server.Send("x");
    else
      bench.guest.Send(kPayload, 7, 1, "x");
    bench.guest.Expect(kReset, 7, 1);
  }
  char byte = 0;  // nothing, or that not all it sent was read
  CHECK(recv(server.fd(), &byte, 1, 0) <= 0);
  bench.guest.Send(kPayload, 8, 1, "unharmed");
  CHECK(other.Read(8) == "unharmed");
  bench.guest.Send(kPayload, 7, 1, "x");
  bench.guest.Expect(kReset, 7, 1);  // for nobody knows it any more
}

/// A write that fails because the other end has shut this half, or is gone, hides nothing of what
/// it said before.
void ReadsWhatIsLeft(int error) {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  {
    const Failing failing(&write_error, error);
    bench.guest.Send(kPayload, 7, 1, "x");
    const Packet end = bench.guest.Expect(kShutdown, 7, 1);
    CHECK(end.header.flags == VIRTIO_VSOCK_SHUTDOWN_RCV);
  }
  server.Send("what is left");
  CHECK(bench.guest.Expect(kPayload, 7, 1).payload == "what is left");
}

void HostLeavesBytesUnread() {
  VsockBench bench;
  const vmm::Fd listener = bench.ListenAt(1);
  HostSocket server = bench.ConnectOut(listener, 7, 1);
  bench.guest.Send(kPayload, 7, 1, "unread");
  server.Send("bye");
  server.Close();

  CHECK(bench.guest.Expect(kPayload, 7, 1).payload == "bye");
  bench.guest.Expect(kReset, 7, 1);
}

}  // namespace

int main() {
  for (const int error : {ENOBUFS, ENOMEM})
    Test("what the host lacks memory for arrives later", [error] { WaitsForMemory(error); });
  Test("so it does of a guest that is gone", WaitsForMemoryWhenTheGuestIsGone);
  Test("a guest that is gone does not hear of a write that fails", TellsNoGuestThatIsGone);
  Test("who waits for memory in vain is forgotten", ForgetsWhoWaitsInVain);
  for (const int error : {EPERM, EFAULT, EIO})
    Test("a write that fails resets its stream and no other",
         [error] { EndsTheStream(&write_error, error); });
  for (const int error : {ECONNRESET, EFAULT})
    Test("so does a read", [error] { EndsTheStream(&read_error, error); });
  for (const int error : {EPIPE, ECONNRESET})
    Test("what the host said before it took no more arrives", [error] { ReadsWhatIsLeft(error); });
  Test("a host that has not read all resets the stream, after its last bytes",
       HostLeavesBytesUnread);
}
