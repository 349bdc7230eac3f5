// theus-top: watches a shared state without taking part.
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tools/top/json.h"
#include "tools/top/options.h"
#include "tools/top/picture.h"
#include "tools/top/screen.h"
#include "tools/top/text.h"
#include "tools/top/watched.h"

namespace theus::top {
namespace {

enum Exit : int { kDone = 0, kFailed = 1, kUsage = 2, kNoCoordinator = 3 };

constexpr std::uint64_t kPatience_ns = 5'000'000'000;
// While there is nobody to watch, the screen goes on between two tries.
constexpr std::uint64_t kRetryPatience_ns = 50'000'000;

double unix_now_s() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

std::string chosen_name(const Options& options) {
  if (!options.name.empty()) return options.name;
  const std::vector<std::string> names = running_names();
  if (names.empty()) {
    throw NotFound("no coordinator runs; start one with theus-coordinator NAME or theus.open()");
  }
  if (names.size() == 1) return names[0];
  std::string text = "more than one coordinator runs; name one of them: theus-top NAME";
  for (const std::string& name : names) text += "\n  " + name;
  throw UsageError(text);
}

// False: nobody reads any more.
bool print(const Picture& picture, const Options& options) {
  std::string text;
  if (options.json) {
    text = to_json(picture, unix_now_s()) + "\n";
  } else {
    for (const std::string& line : lay_out(picture, 0, 0).lines) text += line + "\n";
    if (!options.once) text += "\n";
  }
  return std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
}

int run_printing(Watched& watched, const Options& options, Signals& signals) {
  watched.look();  // what the first rates are taken against
  for (;;) {
    signals.wait(options.interval_s, -1);
    if (const int number = signals.pending()) Signals::end_by(number);
    if (watched.ended()) {
      std::fprintf(stderr, "theus-top: the coordinator has ended\n");
      return kNoCoordinator;
    }
    if (!print(watched.look(), options)) return kFailed;
    if (options.once) return kDone;
  }
}

// Redraws at once when a key is pressed or the terminal is resized; a new picture, though, only
// when its time has come, because rates over a few milliseconds are noise.
class Pace {
 public:
  explicit Pace(double interval_s) : interval_s_(interval_s), next_s_(now_s()) {}
  double left_s() const { return std::max(0.0, next_s_ - now_s()); }
  bool due() {
    if (left_s() > 0) return false;
    next_s_ = now_s() + interval_s_;
    return true;
  }

 private:
  static double now_s() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
  }
  double interval_s_;
  double next_s_;
};

int run_screen(std::unique_ptr<Watched> watched, const std::string& name, const Options& options,
               Signals& signals) {
  Picture picture = watched->look();
  int ended_by = 0;
  {
    Screen screen;
    Pace pace(options.interval_s);
    std::string notice;
    for (;;) {
      if (pace.due()) {
        if (watched && watched->ended()) watched.reset();
        if (!watched) {
          notice = "the coordinator has ended; waiting for a new one of that name (q quits)";
          try {
            watched = std::make_unique<Watched>(name, kRetryPatience_ns);
            notice.clear();
          } catch (const NotFound&) {  // the notice says so
          } catch (const CannotWatch& error) {
            notice = error.what();
          }
        }
        if (watched) picture = watched->look();
      }
      const std::size_t reserved = notice.empty() ? 0 : 1;
      screen.show(lay_out(picture, screen.width(), screen.height() - reserved),
                  notice.empty() ? nullptr : notice.c_str());
      signals.wait(pace.left_s(), STDIN_FILENO);
      ended_by = signals.pending();
      if (ended_by != 0 || screen.quit_pressed()) break;
    }
  }
  if (ended_by != 0) Signals::end_by(ended_by);
  return kDone;
}

int run(const Options& options) {
  Signals signals;
  const std::string name = chosen_name(options);
  auto watched = std::make_unique<Watched>(name, kPatience_ns);
  const bool in_terminal = isatty(STDOUT_FILENO) != 0 && isatty(STDIN_FILENO) != 0;
  if (options.once || options.json || !in_terminal) {
    return run_printing(*watched, options, signals);
  }
  return run_screen(std::move(watched), name, options, signals);
}

}  // namespace

int main(std::span<const char* const> words) {
  try {
    const Options options = parse_options(words);
    if (options.help) {
      std::fputs(kHelp, stdout);
      return kDone;
    }
    return run(options);
  } catch (const UsageError& error) {
    std::fprintf(stderr, "theus-top: %s\n", error.what());
    return kUsage;
  } catch (const NotFound& error) {
    std::fprintf(stderr, "theus-top: %s\n", error.what());
    return kNoCoordinator;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "theus-top: %s\n", error.what());
    return kFailed;
  }
}

}  // namespace theus::top

int main(int argc, char** argv) {
  return theus::top::main({argv + (argc > 0 ? 1 : 0), static_cast<std::size_t>(argc - 1)});
}
