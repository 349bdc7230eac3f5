// The command line of theus-coordinator.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "coordinator/pool.h"

namespace theus::coordinator {

struct Options {
  std::string name;
  std::uint64_t capacity_bytes = 2ull << 30;
  Pool::Settings pool;
  bool embedded = false;        // ends by itself when nobody uses it
  std::string log_path = "-";   // "-": stderr
  std::string log_level = "info";
  int starter_fd = -1;          // control channel to whoever started it and wants to be told
};

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What the command line asks for: options to run with, or a text to print (help, version).
struct CommandLine {
  Options options;
  std::optional<std::string> print;
};
// `arguments` without the program's name. Throws UsageError.
CommandLine parse_command_line(std::span<const char* const> arguments);

// The descriptor of --starter-fd on a command line that may otherwise be wrong: whoever started
// this wants to be told. -1: none.
int find_starter_fd(std::span<const char* const> arguments);

// "2GiB", "512 MiB", "64M", "1000000" (bytes); K, M, G and T are powers of 1024. Throws UsageError
// when it is none, or above what a state can have.
std::uint64_t parse_size(std::string_view text);
// The same. Throws UsageError unless it lies within what a state can have.
std::uint64_t parse_capacity(std::string_view text);

}  // namespace theus::coordinator
