#include "../../native/serial/line.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "check.h"

namespace {

using vmm::Fd;
using vmm::Line;

constexpr uint32_t kSoonMs = 10'000;  // more than any of this takes
constexpr int kQuietMs = 50;

std::shared_ptr<Line> Pty() {
  std::shared_ptr<Line> line;
  CHECK(Line::OfPty("serial", &line).ok());
  return line;
}

/// A socket line in a directory that goes with it.
struct SocketLine {
  SocketLine() {
    std::array<char, 32> name = {"/tmp/line-XXXXXX"};
    CHECK(mkdtemp(name.data()) != nullptr);
    directory = name.data();
    CHECK(Line::OfSocket("serial", directory + "/s", &line).ok());
  }
  ~SocketLine() {
    unlink((directory + "/s").c_str());
    rmdir(directory.c_str());
  }
  Fd Connect() const {
    Fd client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    Connect(client);
    return client;
  }
  void Connect(const Fd& client) const {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, line->path().data(), line->path().size());
    CHECK(connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  }
  std::string directory;
  std::shared_ptr<Line> line;
};

Fd OpenSlave(const Line& line) {
  Fd slave(open(line.path().c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  CHECK(slave.ok());
  return slave;
}

void Put(Line* line, const std::string& text) {
  line->Put(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

std::string Read(const Fd& fd, size_t count) {
  std::string text(count, '\0');
  for (size_t done = 0; done < count;) {
    const ssize_t got = read(fd.get(), text.data() + done, count - done);
    CHECK(got > 0);
    done += static_cast<size_t>(got);
  }
  return text;
}

void Write(const Fd& fd, const std::string& text) {
  CHECK(write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
}

bool SaysNothing(const Fd& fd) {
  pollfd quiet{fd.get(), POLLIN, 0};
  return poll(&quiet, 1, kQuietMs) == 0;
}

/// Takes input, `room` bytes of it at a time.
class Taker {
 public:
  explicit Taker(Line* line, size_t room = 1 << 20) : room_(room) {
    line->Attach([this](const uint8_t* bytes, size_t count) {
      const std::lock_guard lock(mutex_);
      const size_t taken = std::min(count, room_);
      text_.append(reinterpret_cast<const char*>(bytes), taken);
      room_ -= taken;
      return taken;
    });
  }
  void MakeRoom(size_t room) {
    const std::lock_guard lock(mutex_);
    room_ = room;
  }
  void WaitFor(const std::string& text) {
    for (uint32_t ms = 0; ms < kSoonMs; ++ms) {
      {
        const std::lock_guard lock(mutex_);
        if (text_ == text) return;
      }
      usleep(1000);
    }
    CHECK(!"the input came");
  }

 private:
  std::mutex mutex_;
  std::string text_;
  size_t room_;
};

/// What all threads of the process have used so far.
long CpuUs() {
  rusage usage{};
  CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
  return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1'000'000L + usage.ru_utime.tv_usec +
         usage.ru_stime.tv_usec;
}

void Sleeps() {
  const long before = CpuUs();
  usleep(300'000);
  CHECK(CpuUs() - before < 30'000);
}

/// `count` bytes, no 1000 of them like any other 1000.
std::string Stream(size_t count) {
  std::string text;
  for (uint32_t i = 0; text.size() < count; ++i) text += std::to_string(i) + ' ';
  text.resize(count);
  return text;
}

void PtyBothWays() {
  const auto line = Pty();
  Taker taker(line.get());
  const Fd slave = OpenSlave(*line);
  Put(line.get(), "out\n");
  CHECK(Read(slave, 4) == "out\n");
  Write(slave, "in\r\x03");
  taker.WaitFor("in\r\x03");
  CHECK(SaysNothing(slave));  // no echo
}

void PtyKeepsNewest() {
  const auto line = Pty();
  const std::string text = Stream(100'000);
  for (int i = 0; i < 3; ++i) {
    usleep(200'000);  // the line hears of a slave that was closed by its thread
    Put(line.get(), text);
    CHECK(line->Flush(0));  // for nobody is there
    const Fd slave = OpenSlave(*line);
    CHECK(Read(slave, vmm::Ring::kBytes) == text.substr(text.size() - vmm::Ring::kBytes));
    CHECK(SaysNothing(slave));
  }
}

void PtySleeps() {
  const auto line = Pty();
  Sleeps();  // never opened
  { const Fd slave = OpenSlave(*line); }
  Sleeps();  // closed
  Put(line.get(), "x");
  Sleeps();  // with something to say
  const Fd slave = OpenSlave(*line);
  Write(slave, "nobody takes this");
  Sleeps();
}

void PtyKeepsLastWords() {
  const auto line = Pty();
  Taker taker(line.get(), 1);
  {
    const Fd slave = OpenSlave(*line);
    Write(slave, "typed");
    taker.WaitFor("t");
  }
  Sleeps();
  taker.MakeRoom(100);
  line->Resume();
  taker.WaitFor("typed");
}

void InputGoesToTheNext() {
  const SocketLine socket;
  const Fd client = socket.Connect();
  Write(client, "early");
  {
    Taker full(socket.line.get(), 2);
    full.WaitFor("ea");
    socket.line->Attach(nullptr);
  }
  Taker next(socket.line.get());
  next.WaitFor("rly");
}

void SocketBothWays() {
  const SocketLine socket;
  Taker taker(socket.line.get());
  std::string typed;
  for (int i = 0; i < 3; ++i) {
    Put(socket.line.get(), "before ");
    CHECK(socket.line->Flush(0));  // for nobody is there
    const Fd client = socket.Connect();
    CHECK(Read(client, 7) == "before ");
    Write(client, "typed ");
    taker.WaitFor(typed += "typed ");
    Put(socket.line.get(), "after");
    CHECK(Read(client, 5) == "after");
    shutdown(client.get(), SHUT_RDWR);
    usleep(kQuietMs * 1000);  // until the line knows
  }
}

void NewestClientWins() {
  const SocketLine socket;
  const Fd first = socket.Connect();
  Put(socket.line.get(), "1");
  CHECK(Read(first, 1) == "1");
  const Fd second = socket.Connect();
  std::array<char, 1> end;
  CHECK(read(first.get(), end.data(), end.size()) == 0);
  Put(socket.line.get(), "2");
  CHECK(Read(second, 1) == "2");
}

void StalledClient() {
  const SocketLine socket;
  const Fd client = socket.Connect();
  const std::string text = Stream(1 << 20);
  Put(socket.line.get(), "x");
  CHECK(Read(client, 1) == "x");
  do {  // until the socket is full, however late the writer is
    for (size_t at = 0; at < text.size(); at += 1024) Put(socket.line.get(), text.substr(at, 1024));
  } while (socket.line->Flush(100));
  Sleeps();
  std::string got;
  while (!got.ends_with(text.substr(text.size() - 1000))) got += Read(client, 1);
  CHECK(got.ends_with(text.substr(text.size() - vmm::Ring::kBytes)));
}

void HalfClosed() {
  const SocketLine socket;
  Taker taker(socket.line.get());
  const Fd client = socket.Connect();
  Write(client, "last");
  shutdown(client.get(), SHUT_WR);
  taker.WaitFor("last");
  Sleeps();
  Put(socket.line.get(), "answer");
  CHECK(Read(client, 6) == "answer");
}

void SocketKeepsLastWords() {
  const SocketLine socket;
  Taker taker(socket.line.get(), 1);
  const std::string text = Stream(20'000);
  { Write(socket.Connect(), text); }
  taker.WaitFor(text.substr(0, 1));
  Sleeps();
  taker.MakeRoom(1 << 20);
  socket.line->Resume();
  taker.WaitFor(text);
}

void RefusesTakenPath() {
  const SocketLine socket;
  std::shared_ptr<Line> other;
  const vmm::Status status = Line::OfSocket("serial", socket.line->path(), &other);
  CHECK(status.error == EADDRINUSE && other == nullptr);
  CHECK(Line::OfSocket("serial", "", &other).error == EINVAL);
  CHECK(Line::OfSocket("serial", std::string(108, 'x'), &other).error == ENAMETOOLONG);
}

/// While there is no descriptor for it, a client waits, and so does the thread.
void OutOfDescriptors() {
  const SocketLine socket;
  rlimit limit{};
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const rlimit none{static_cast<rlim_t>(3), limit.rlim_max};
  const Fd waiting(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
  socket.Connect(waiting);
  Sleeps();
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  Put(socket.line.get(), "z");
  CHECK(Read(waiting, 1) == "z");
}

void EndsInEveryState() {
  for (int i = 0; i < 20; ++i) {
    const SocketLine socket;
    Put(socket.line.get(), Stream(1 << 20));
    const Fd client = i % 2 == 1 ? socket.Connect() : Fd();
    socket.line->Close();
    socket.line->Close();
    Put(socket.line.get(), "late");
    Pty()->Close();
  }
}

}  // namespace

int main() {
  alarm(100);  // what ought to end and does not
  Test("a pty carries bytes both ways, unaltered", PtyBothWays);
  Test("a pty that nobody has open keeps the newest output", PtyKeepsNewest);
  Test("a pty that nobody has open costs no time", PtySleeps);
  Test("what was typed on a pty before it was closed arrives", PtyKeepsLastWords);
  Test("input that was not taken goes to who is attached next", InputGoesToTheNext);
  Test("a socket carries bytes both ways, and takes the next client", SocketBothWays);
  Test("a new client takes the place of the one before it", NewestClientWins);
  Test("a client that does not read costs nothing but old output", StalledClient);
  Test("a client that has said all is still told", HalfClosed);
  Test("what a client sent before it left arrives", SocketKeepsLastWords);
  Test("a path where something lies is refused", RefusesTakenPath);
  Test("without descriptors clients wait, at no cost", OutOfDescriptors);
  Test("it ends in every state", EndsInEveryState);
}
