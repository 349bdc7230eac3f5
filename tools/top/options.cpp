#include "tools/top/options.h"

#include <charconv>
#include <string_view>

namespace theus::top {

const char* const kHelp = R"(usage: theus-top [options] [NAME]

Shows what happens in the shared state NAME (default: the only one that runs), without taking
part: it maps the state read-only. In a terminal it refreshes in place, q quits; otherwise it
prints one picture per interval.

  --once          print one picture and end; rates are measured over the interval (default 0.5)
  --json          print one JSON object per line instead
  --interval S    seconds between two pictures, 0.1 to 3600 (default 1)
  --help          print this

Head:
  commits/s, conflicts/s, read-only/s   of all workers; conflicts also as share of all attempts
  clock          the newest version
  memory         used, free, and what the system has provided so far
  oldest pin     what keeps old versions alive: how many versions behind, and for how long
                 (with > when its beginning is not known: at least since theus-top first saw it)
  retained keys  keys with superseded versions; dead nodes: deleted mappings not yet taken apart
  lock repairs   times that somebody died holding the arbitration lock
Columns, one row per worker:
  SLOT PID STATE   place, process, and what the process does (run, sleep, stopped, zombie, gone)
  COMMIT/S CONFL   commits a second; attempts that conflicted, in percent
  READ/S           read-only transactions a second
  PINS VIEWS       pinned versions, and blocks kept for arrays that the program holds
  BEHIND PIN AGE   of its oldest pin
JSON fields:
  name time_unix_ms interval_s uptime_s coordinator_pid supervisor_pid restarting clock
  commits_per_s conflicts_per_s conflict_share read_only_per_s capacity_bytes used_bytes free_bytes
  backed_bytes keys retained_keys dead_nodes lock_repairs oldest_pin workers
  oldest_pin, or null: slot pid version versions_behind age_s age_is_lower_bound
  workers: slot pid state label commits conflicts read_only rollbacks commits_per_s conflicts_per_s
  conflict_share read_only_per_s rollbacks_per_s combined_per_s lock_waits_per_s pins views
  oldest_pin. A share is from 0 to 1, null when nothing was tried. New fields may be added.
Exit status: 0 done, 1 failed, 2 wrong usage, 3 no such coordinator, or it has ended meanwhile.
)";

namespace {

double parse_interval(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !(value >= kIntervalMin_s) ||
      !(value <= kIntervalMax_s)) {
    throw UsageError("'" + std::string(text) + "' is no interval: write seconds, 0.1 to 3600");
  }
  return value;
}

}  // namespace

Options parse_options(std::span<const char* const> words) {
  constexpr std::string_view kIntervalIs = "--interval=";
  Options options;
  bool interval_given = false;
  bool only_names = false;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string_view word = words[i];
    if (only_names || word.empty() || word[0] != '-') {
      if (word.empty()) throw UsageError("the name is empty");
      if (!options.name.empty()) {
        throw UsageError("one name at a time: '" + options.name + "' or '" + std::string(word) +
                         "'");
      }
      options.name = word;
    } else if (word == "--") {
      only_names = true;
    } else if (word == "--once") {
      options.once = true;
    } else if (word == "--json") {
      options.json = true;
    } else if (word == "--help" || word == "-h") {
      options.help = true;
    } else if (word == "--interval") {
      if (i + 1 == words.size()) throw UsageError("--interval wants seconds after it");
      options.interval_s = parse_interval(words[++i]);
      interval_given = true;
    } else if (word.starts_with(kIntervalIs)) {
      options.interval_s = parse_interval(word.substr(kIntervalIs.size()));
      interval_given = true;
    } else {
      throw UsageError("unknown option " + std::string(word) + "; see theus-top --help");
    }
  }
  if (options.once && !interval_given) options.interval_s = kOnceInterval_s;
  return options;
}

}  // namespace theus::top
