#include "../../native/engines/rate_limiter.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <random>
#include <thread>
#include <vector>

#include "../../native/base/clock.h"
#include "check.h"

namespace {

using vmm::RateLimiter;
using vmm::TokenBucketOptions;

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kSecond = 1000 * kMs;
constexpr TokenBucketOptions kNone{};

/// Clocks count from the start of the host, and that is no special time.
constexpr int64_t kStart = 77 * kSecond + 123;

/// What passed, and when.
struct Passed {
  int64_t at_ns;
  uint64_t bytes;
};

/// One after another, each as soon as it may, from `now_ns` until `end_ns`.
std::vector<Passed> Pump(RateLimiter* limiter, uint64_t bytes, int64_t now_ns, int64_t end_ns) {
  std::vector<Passed> passed;
  while ((now_ns = std::max(now_ns, limiter->Take(bytes, now_ns))) < end_ns)
    passed.push_back({now_ns, bytes});
  return passed;
}

/// How many pass at once.
size_t PumpNow(RateLimiter* limiter, uint64_t bytes, int64_t now_ns) {
  return Pump(limiter, bytes, now_ns, now_ns + 1).size();
}

uint64_t Bytes(const std::vector<Passed>& passed) {
  uint64_t total = 0;
  for (const Passed& one : passed) total += one.bytes;
  return total;
}

/// The most that passed within `window_ns`.
uint64_t MostBytes(const std::vector<Passed>& passed, int64_t window_ns) {
  std::deque<Passed> window;
  uint64_t sum = 0, most = 0;
  for (const Passed& one : passed) {
    window.push_back(one);
    sum += one.bytes;
    for (; window.front().at_ns <= one.at_ns - window_ns; window.pop_front())
      sum -= window.front().bytes;
    most = std::max(most, sum);
  }
  return most;
}

bool Within5Percent(uint64_t value, double target) {
  return static_cast<double>(value) >= 0.95 * target && static_cast<double>(value) <= 1.05 * target;
}

void NoLimit() {
  RateLimiter none(kNone, kNone);
  RateLimiter no_size({0, 100, 5}, {0, 100, 5});
  RateLimiter no_time({100, 0, 5}, {100, 0, 5});
  for (RateLimiter* limiter : {&none, &no_size, &no_time})
    for (int i = 0; i < 1000; ++i) CHECK(limiter->Take(UINT64_MAX, kStart) <= kStart);
}

void HoldsFromTheStart() {
  RateLimiter bytes({1'000'000, 1000, 0}, kNone);
  CHECK(Within5Percent(Bytes(Pump(&bytes, 4096, kStart, kStart + 10 * kSecond)), 10e6));
  RateLimiter ops(kNone, {50, 100, 0});
  CHECK(Within5Percent(Pump(&ops, 4096, kStart, kStart + 10 * kSecond).size(), 5000));
}

void HoldsAfterIdleness() {
  RateLimiter limiter(kNone, {1000, 1000, 0});
  Pump(&limiter, 0, kStart, kStart + kSecond);
  const int64_t later = kStart + 3600 * kSecond;
  CHECK(Within5Percent(Pump(&limiter, 0, later, later + 10 * kSecond).size(), 10'000));
}

void SmallBuckets() {
  RateLimiter ten(kNone, {10, 100, 0});  // no 0.4 s of 100 a second, for that would be 40
  CHECK(PumpNow(&ten, 0, kStart) == 10);
  RateLimiter slow(kNone, {10, 100'000, 0});  // 0.4 s of it are a part of one
  CHECK(PumpNow(&slow, 0, kStart) == 1);
  CHECK(Pump(&slow, 0, kStart, kStart + 100 * kSecond).size() == 9);
}

void RefillsContinuously() {
  RateLimiter limiter(kNone, {1000, 1000, 0});
  PumpNow(&limiter, 0, kStart);  // what it took last is the one that waits
  CHECK((limiter.Take(0, kStart) - kStart) / kMs == 1);
  CHECK((limiter.Take(0, kStart + kMs / 2) - kStart) / kMs == 2);
}

void OneTimeBurst() {
  RateLimiter limiter({1000, 1000, 5000}, kNone);
  CHECK(PumpNow(&limiter, 100, kStart) == 54);  // 0.4 s are 400 bytes
  const int64_t later = kStart + 3600 * kSecond;
  CHECK(PumpNow(&limiter, 100, later) == 4);
}

void LargeRequest() {
  RateLimiter limiter({1000, 1000, 0}, kNone);
  CHECK(limiter.Take(10'000, kStart) <= kStart);
  const int64_t wait_ns = limiter.Take(1, kStart) - kStart;
  CHECK(wait_ns / kMs == 10'000 - 400);
}

void TighterOfTwo() {
  RateLimiter limiter({1'000'000, 1000, 0}, {100, 1000, 0});
  CHECK(Within5Percent(Pump(&limiter, 1000, kStart, kStart + 10 * kSecond).size(), 1000));
  CHECK(Within5Percent(Bytes(Pump(&limiter, 100'000, kStart + 20 * kSecond, kStart + 30 * kSecond)),
                       10e6));
}

void GivesBack() {
  RateLimiter bytes({1000, 1000, 0}, kNone);
  RateLimiter ops(kNone, {1000, 1000, 0});
  for (RateLimiter* limiter : {&bytes, &ops}) {
    PumpNow(limiter, 1, kStart);
    const int64_t turn_ns = limiter->Take(1, kStart);
    limiter->GiveBack(1);
    CHECK(limiter->Take(1, kStart) == turn_ns);
  }
}

void ExtremeNumbers() {
  constexpr uint64_t kMost = uint64_t{1} << 53;
  RateLimiter slowest({1, kMost, 0}, {1, kMost, 0});
  CHECK(slowest.Take(UINT32_MAX, kStart) <= kStart);
  for (int i = 0; i < 100; ++i) CHECK(slowest.Take(UINT32_MAX, kStart) > kStart + 3600 * kSecond);
  RateLimiter fastest({kMost, 1, kMost}, {kMost, 1, kMost});
  CHECK(Pump(&fastest, UINT32_MAX, kStart, kStart + 1000).size() >= 500);
}

/// Several queues that share a limiter, each with one request at a time and rests between them.
std::vector<Passed> RandomLoad(RateLimiter* limiter, std::mt19937_64* random, uint64_t bytes_max,
                               int64_t rest_max_ns, int64_t end_ns) {
  std::vector<int64_t> next_ns(1 + (*random)() % 4, kStart);  // when each queue asks
  std::vector<Passed> passed;
  for (;;) {
    auto& queue_ns = *std::min_element(next_ns.begin(), next_ns.end());
    if (queue_ns >= end_ns) break;
    const uint64_t bytes = 1 + (*random)() % bytes_max;
    queue_ns = std::max(queue_ns, limiter->Take(bytes, queue_ns));
    if (queue_ns < end_ns) passed.push_back({queue_ns, bytes});
    queue_ns += 1 + static_cast<int64_t>((*random)() % static_cast<uint64_t>(rest_max_ns));
  }
  std::sort(passed.begin(), passed.end(),
            [](const Passed& a, const Passed& b) { return a.at_ns < b.at_ns; });
  return passed;
}

void RandomLoads() {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    std::mt19937_64 random(seed);
    const uint64_t size = 1000 + random() % 10'000'000;
    const uint64_t refill_ms = 1 + random() % 2000;
    const double per_second = static_cast<double>(size) * 1000 / static_cast<double>(refill_ms);
    const auto bytes_max = static_cast<uint64_t>(per_second / 500) + 1;
    const bool rests = seed % 2 == 0;
    RateLimiter limiter({size, refill_ms, 0}, kNone);
    const auto passed = RandomLoad(&limiter, &random, bytes_max, rests ? 100 * kMs : kMs / 100,
                                   kStart + 20 * kSecond);
    for (const int64_t window_ns : {kSecond / 10, kSecond, 10 * kSecond}) {
      const double credit_ms = std::min(400.0, static_cast<double>(refill_ms));
      const double most = per_second * (static_cast<double>(window_ns) / 1e9 + credit_ms / 1000) +
                          static_cast<double>(bytes_max);
      CHECK(static_cast<double>(MostBytes(passed, window_ns)) <= most);
    }
    if (!rests) CHECK(Within5Percent(Bytes(passed), 20 * per_second));
  }
}

/// Each asks again as soon as its turn has come.
void NobodyStarves() {
  RateLimiter limiter(kNone, {2000, 1000, 0});
  constexpr size_t kThreads = 4;
  std::vector<std::atomic<uint32_t>> turns(kThreads);
  const int64_t end_ns = vmm::SteadyNowNs() + kSecond;
  std::vector<std::thread> threads;
  for (auto& turn : turns)
    threads.emplace_back([&] {
      for (int64_t now_ns = 0; now_ns < end_ns; now_ns = vmm::SteadyNowNs()) {
        const int64_t wait_ns = limiter.Take(0, vmm::SteadyNowNs()) - vmm::SteadyNowNs();
        if (wait_ns > 0) std::this_thread::sleep_for(std::chrono::nanoseconds(wait_ns));
        ++turn;
      }
    });
  for (auto& thread : threads) thread.join();
  uint32_t total = 0;
  for (const auto& turn : turns) total += turn;
  CHECK(total <= 2000 + 800 + kThreads);
  for (const auto& turn : turns) CHECK(turn > 2000 / kThreads / 4);
}

}  // namespace

int main() {
  Test("without size or refill time all passes", NoLimit);
  Test("a limit holds from the start", HoldsFromTheStart);
  Test("a limit holds after idleness", HoldsAfterIdleness);
  Test("a bucket saves up no more than its size", SmallBuckets);
  Test("a bucket refills continuously", RefillsContinuously);
  Test("a one-time burst passes once", OneTimeBurst);
  Test("a request larger than the bucket passes and is paid for afterwards", LargeRequest);
  Test("the tighter of two limits holds", TighterOfTwo);
  Test("what is given back is not charged", GivesBack);
  Test("the largest numbers do no harm", ExtremeNumbers);
  Test("no load gets more than the limit, and a busy one gets it", RandomLoads);
  Test("threads that wait get their turns", NobodyStarves);
}
