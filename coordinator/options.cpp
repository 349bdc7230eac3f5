#include "coordinator/options.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>

#include "shm/layout.h"

#ifndef THEUS_VERSION
#define THEUS_VERSION "unknown"
#endif

namespace theus::coordinator {
namespace {

constexpr const char* kHelp =
    R"(usage: theus-coordinator [options] NAME

Keeps the shared state NAME: admits processes that attach to it, takes back the memory of those
that died, and restarts itself when killed. Memory only: the state ends with the last process.

  --capacity SIZE         most memory the state may use, 16MiB to 64GiB; taken only as needed
                          (default 2GiB)
  --pool SIZE             free memory that is kept ready for reuse, if half of what is in use is
                          not more (default 64MiB); the rest goes back to the system ...
  --pool-seconds SECONDS  ... when nobody has needed it for so long, 1 to 86400 (default 10)
  --embedded              end by itself when nobody is attached any more
  --arbitration MODE      cooperative (the default); isolated is not available yet
  --log FILE|-            where to log, - is stderr (default -)
  --log-level LEVEL       trace, debug, info, warning, error or off (default info)
  --version               print the version
  --help                  print this

SIGTERM or SIGINT end it; processes that are still attached get CoordinatorLost.
)";

constexpr std::array<std::string_view, 6> kLevels = {"trace",   "debug", "info",
                                                     "warning", "error", "off"};

std::string quoted(std::string_view text) { return "'" + std::string(text) + "'"; }

bool same_but_for_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](unsigned char x, unsigned char y) {
    return std::tolower(x) == std::tolower(y);
  });
}

std::uint64_t unit_bytes(std::string_view unit, std::string_view whole) {
  constexpr std::array<std::string_view, 4> kUnits = {"K", "M", "G", "T"};
  if (unit.empty() || same_but_for_case(unit, "B")) {
    return 1;
  }
  std::uint64_t bytes = 1;
  for (const std::string_view name : kUnits) {
    bytes *= 1024;
    const std::string letter(name);
    if (same_but_for_case(unit, letter) || same_but_for_case(unit, letter + "B") ||
        same_but_for_case(unit, letter + "iB")) {
      return bytes;
    }
  }
  throw UsageError(quoted(whole) + " is no size: write it like 512MiB or 2GiB");
}

int parse_fd(std::string_view text) {
  int fd = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), fd);
  if (error != std::errc{} || end != text.data() + text.size() || fd < 3) {
    throw UsageError(quoted(text) + " is no descriptor for --starter-fd");
  }
  return fd;
}

std::uint64_t parse_seconds(std::string_view text) {
  std::uint64_t seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc{} || end != text.data() + text.size() || seconds < 1 || seconds > 86400) {
    throw UsageError(quoted(text) + " is no number of seconds from 1 to 86400");
  }
  return seconds;
}

// Walks over the words; options take their value from "--name value" or "--name=value".
class Parser {
 public:
  explicit Parser(std::span<const char* const> words) : words_(words) {}

  CommandLine parse() {
    bool only_names = false;
    while (next_ < words_.size() && !result_.print) {
      const std::string_view word = words_[next_++];
      if (!only_names && word == "--") {
        only_names = true;
      } else if (!only_names && word.size() > 1 && word.front() == '-') {
        option(word);
      } else if (!result_.options.name.empty()) {
        throw UsageError("more than one name: " + quoted(result_.options.name) + " and " +
                         quoted(word));
      } else {
        result_.options.name = word;
      }
    }
    if (!result_.print && result_.options.name.empty()) {
      throw UsageError("a name is needed: theus-coordinator NAME");
    }
    return std::move(result_);
  }

 private:
  void option(std::string_view word) {
    const std::size_t equals = word.find('=');
    const std::string_view name = word.substr(0, equals);
    has_inline_value_ = equals != std::string_view::npos;
    inline_value_ = has_inline_value_ ? word.substr(equals + 1) : std::string_view();
    if (name == "--help" || name == "-h") {
      result_.print = kHelp;
    } else if (name == "--version") {
      result_.print = "theus-coordinator " THEUS_VERSION "\n";
    } else if (name == "--capacity") {
      result_.options.capacity_bytes = parse_capacity(value(name));
    } else if (name == "--pool") {
      result_.options.pool.keep_bytes = parse_size(value(name));
    } else if (name == "--pool-seconds") {
      result_.options.pool.window_ns = parse_seconds(value(name)) * 1'000'000'000;
    } else if (name == "--embedded") {
      result_.options.embedded = true;
    } else if (name == "--arbitration") {
      arbitration(value(name));
    } else if (name == "--log") {
      result_.options.log_path = value(name);
    } else if (name == "--log-level") {
      level(value(name));
    } else if (name == "--starter-fd") {
      result_.options.starter_fd = parse_fd(value(name));
    } else {
      throw UsageError("unknown option " + quoted(name) + "; --help lists them");
    }
  }

  std::string_view value(std::string_view name) {
    if (has_inline_value_) {
      return inline_value_;
    }
    if (next_ == words_.size()) {
      throw UsageError(std::string(name) + " needs a value");
    }
    return words_[next_++];
  }

  static void arbitration(std::string_view mode) {
    if (mode == "isolated") {
      throw UsageError("--arbitration isolated is not available yet; use cooperative");
    }
    if (mode != "cooperative") {
      throw UsageError(quoted(mode) + " is no kind of arbitration; use cooperative");
    }
  }

  void level(std::string_view name) {
    if (std::find(kLevels.begin(), kLevels.end(), name) == kLevels.end()) {
      throw UsageError(quoted(name) + " is no log level; --help lists them");
    }
    result_.options.log_level = name;
  }

  std::span<const char* const> words_;
  std::size_t next_ = 0;
  bool has_inline_value_ = false;
  std::string_view inline_value_;
  CommandLine result_;
};

}  // namespace

std::uint64_t parse_size(std::string_view text) {
  std::uint64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc{}) {
    throw UsageError(quoted(text) + " is no size: write it like 512MiB or 2GiB");
  }
  std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  unit.remove_prefix(std::min(unit.find_first_not_of(' '), unit.size()));
  const std::uint64_t factor = unit_bytes(unit, text);
  if (count > shm::kMaxCapacityBytes / factor) {
    throw UsageError(quoted(text) + " is above the 64GiB that a state can have");
  }
  return count * factor;
}

std::uint64_t parse_capacity(std::string_view text) {
  const std::uint64_t bytes = parse_size(text);
  if (bytes < shm::kMinCapacityBytes) {
    throw UsageError("a capacity of " + quoted(text) + " is outside 16MiB to 64GiB");
  }
  return bytes;
}

int find_starter_fd(std::span<const char* const> arguments) {
  for (std::size_t i = 0; i + 1 < arguments.size(); ++i) {
    if (std::string_view(arguments[i]) == "--starter-fd") {
      try {
        return parse_fd(arguments[i + 1]);
      } catch (const UsageError&) {
        return -1;
      }
    }
  }
  return -1;
}

CommandLine parse_command_line(std::span<const char* const> arguments) {
  return Parser(arguments).parse();
}

}  // namespace theus::coordinator
