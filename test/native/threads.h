#pragma once
#include <dirent.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <functional>
#include <optional>
#include <string>

#include "check.h"

/// A number of /proc/self/task/TID/status of our thread of that name.
inline uint64_t OfThread(const std::string& name, const std::string& field) {
  DIR* tasks = opendir("/proc/self/task");
  CHECK(tasks != nullptr);
  std::optional<uint64_t> value;
  while (const dirent* task = readdir(tasks)) {
    std::ifstream status(std::string("/proc/self/task/") + task->d_name + "/status");
    std::string line;
    bool is_it = false;
    while (std::getline(status, line)) {
      if (line == "Name:\t" + name) is_it = true;
      if (is_it && line.rfind(field + ":", 0) == 0)
        value = std::stoull(line.substr(field.size() + 1));
    }
  }
  closedir(tasks);
  CHECK(value.has_value());
  return *value;
}

/// Whether a thread sleeps all through `meanwhile` and a fifth of a second, once it does at all.
inline bool Sleeps(
    const std::string& name, const std::function<void()>& meanwhile = [] {}) {
  usleep(50'000);
  const uint64_t before = OfThread(name, "voluntary_ctxt_switches");
  const uint64_t forced = OfThread(name, "nonvoluntary_ctxt_switches");
  meanwhile();
  usleep(200'000);
  return OfThread(name, "voluntary_ctxt_switches") == before &&
         OfThread(name, "nonvoluntary_ctxt_switches") == forced;
}
