// The command line of theus-top.
#pragma once

#include <span>
#include <stdexcept>
#include <string>

namespace theus::top {

struct Options {
  std::string name;  // empty: the only one that runs
  bool once = false;
  bool json = false;
  double interval_s = 1.0;  // with `once`: the time that rates are measured over
  bool help = false;
};

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline constexpr double kIntervalMin_s = 0.1;
inline constexpr double kIntervalMax_s = 3600;
inline constexpr double kOnceInterval_s = 0.5;  // when none is given

extern const char* const kHelp;

// The words after the program's name. Throws UsageError, whose text says what to write instead.
Options parse_options(std::span<const char* const> words);

}  // namespace theus::top
