#include "../../native/serial/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "../../native/base/fd.h"
#include "check.h"

namespace {

using vmm::Output;

constexpr uint32_t kSoonMs = 10'000;  // more than any of this takes

/// A pipe whose buffer is one page.
struct Pipe {
  explicit Pipe(int flags = 0) {
    std::array<int, 2> fds{};
    CHECK(pipe2(fds.data(), O_CLOEXEC) == 0);
    reader = vmm::Fd(fds[0]);
    writer = vmm::Fd(fds[1]);
    CHECK(fcntl(writer.get(), F_SETPIPE_SZ, 4096) == 4096);
    CHECK(fcntl(writer.get(), F_SETFL, flags) == 0);
  }
  std::string Read(size_t count) const {
    std::string text(count, '\0');
    for (size_t done = 0; done < count;) {
      const ssize_t got = read(reader.get(), text.data() + done, count - done);
      CHECK(got > 0);
      done += static_cast<size_t>(got);
    }
    return text;
  }
  vmm::Fd reader, writer;
};

void Put(Output* output, const std::string& text) {
  output->Put(reinterpret_cast<const uint8_t*>(text.data()), text.size());
}

/// `count` bytes, no 1000 of them like any other 1000.
std::string Stream(size_t count) {
  std::string text;
  for (uint32_t i = 0; text.size() < count; ++i) text += std::to_string(i) + ' ';
  text.resize(count);
  return text;
}

void KeepsOrder() {
  const Pipe pipe;
  Output output("serial", pipe.writer.get());
  const std::string text = Stream(60'000);
  std::string got;
  {
    std::jthread reader([&] { got = pipe.Read(text.size()); });
    for (size_t at = 0; at < text.size(); at += 100) Put(&output, text.substr(at, 100));
    CHECK(output.Flush(kSoonMs));
  }
  CHECK(got == text);
}

void KeepsNewest() {
  const Pipe pipe;
  Output output("serial", pipe.writer.get());
  const std::string text = Stream(1 << 20);
  Put(&output, text);
  CHECK(!output.Flush(10));  // nobody reads

  std::string got;
  std::jthread reader([&] {
    std::array<char, 4096> part;
    for (ssize_t count; (count = read(pipe.reader.get(), part.data(), part.size())) > 0;) {
      got.append(part.data(), static_cast<size_t>(count));
      if (got.ends_with(text.substr(text.size() - 100))) return;
    }
  });
  CHECK(output.Flush(kSoonMs));
  reader.join();
  CHECK(got.size() >= vmm::Ring::kBytes && got.size() < text.size());
  CHECK(got.ends_with(text.substr(text.size() - vmm::Ring::kBytes)));
}

void EndsWhileWriting(int flags) {
  for (int i = 0; i < 20; ++i) {
    const Pipe pipe(flags);
    auto output = std::make_unique<Output>("serial", pipe.writer.get());
    Put(output.get(), Stream(16'384));
    if (i % 2 == 1) CHECK(!output->Flush(5));  // so that the writer is surely stuck
    output.reset();
  }
}

void WaitsForNonBlockingFd() {
  const Pipe pipe(O_NONBLOCK);
  Output output("serial", pipe.writer.get());
  const std::string text = Stream(16'384);
  Put(&output, text);
  CHECK(!output.Flush(10));
  CHECK(pipe.Read(text.size()) == text);
  CHECK(output.Flush(kSoonMs));
}

void OutlivesReader() {
  Pipe pipe;
  { const vmm::Fd gone(std::move(pipe.reader)); }
  Output output("serial", pipe.writer.get());
  Put(&output, "nobody reads this");
  CHECK(output.Flush(kSoonMs));  // dropped, and no SIGPIPE
}

/// Taken from the ring is not written: a pipe that is full to the last byte takes no more.
void FlushWaitsForWrite() {
  const Pipe pipe;
  const std::string full(4096, 'f');
  CHECK(write(pipe.writer.get(), full.data(), full.size()) == 4096);
  Output output("serial", pipe.writer.get());
  Put(&output, "last words");
  CHECK(!output.Flush(50));
  CHECK(pipe.Read(4096) == full);
  CHECK(output.Flush(kSoonMs) && pipe.Read(10) == "last words");
}

/// Whatever the sizes of what is put and taken, it holds what the end of the stream says.
void RingKeepsTheEndOfTheStream() {
  vmm::Ring ring;
  std::string model;
  std::vector<uint8_t> chunk;
  uint32_t seed = 1;
  for (int round = 0; round < 400; ++round) {
    seed = seed * 1664525 + 1013904223;
    const size_t count = (seed >> 8) % (round % 10 == 0 ? 3 * vmm::Ring::kBytes : 5000);
    const std::string text = Stream(count + round).substr(static_cast<size_t>(round));
    ring.Put(reinterpret_cast<const uint8_t*>(text.data()), text.size());
    model += text;
    if (model.size() > vmm::Ring::kBytes) model.erase(0, model.size() - vmm::Ring::kBytes);
    ring.Take((seed >> 4) % 6000, &chunk);
    CHECK(std::string(chunk.begin(), chunk.end()) == model.substr(0, chunk.size()));
    CHECK(chunk.size() == std::min<size_t>(model.size(), (seed >> 4) % 6000));
    model.erase(0, chunk.size());
    CHECK(ring.empty() == model.empty());
  }
}

void SwallowsAll() {
  Output output("serial", -1);
  Put(&output, Stream(1 << 20));
  CHECK(output.Flush(0));
}

}  // namespace

int main() {
  alarm(60);  // what ought to end and does not
  Test("bytes come out in order", KeepsOrder);
  Test("the newest bytes stay when nobody reads", KeepsNewest);
  Test("it ends though a write blocks for ever", [] { EndsWhileWriting(0); });
  Test("it ends though a non-blocking descriptor stays full", [] { EndsWhileWriting(O_NONBLOCK); });
  Test("a full non-blocking descriptor is waited for", WaitsForNonBlockingFd);
  Test("a reader that has gone is no error", OutlivesReader);
  Test("a flush waits for what is being written", FlushWaitsForWrite);
  Test("a ring keeps the end of the stream", RingKeepsTheEndOfTheStream);
  Test("without a descriptor all is swallowed", SwallowsAll);
}
