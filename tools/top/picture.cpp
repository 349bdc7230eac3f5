#include "tools/top/picture.h"

#include <algorithm>

namespace theus::top {
namespace {

constexpr double kNsPerSecond = 1e9;

// The same tenant of the same slot; nullptr: it came after that sample.
const WorkerSample* find(const Sample& sample, const WorkerSample& worker) {
  const auto at =
      std::lower_bound(sample.workers.begin(), sample.workers.end(), worker.slot,
                       [](const WorkerSample& one, std::uint32_t slot) { return one.slot < slot; });
  const bool found =
      at != sample.workers.end() && at->slot == worker.slot && at->admission == worker.admission;
  return found ? &*at : nullptr;
}

WorkerRow row_of(const WorkerSample& now, const Sample& before, double seconds) {
  // Who was not there before started from 0 in between.
  static const WorkerSample kNewcomer;
  const WorkerSample* known = find(before, now);
  const WorkerSample& then = known != nullptr ? *known : kNewcomer;
  WorkerRow row;
  row.sample = now;
  row.commits_per_s = rate(now.commits, then.commits, seconds);
  row.conflicts_per_s = rate(now.conflicts, then.conflicts, seconds);
  row.read_only_per_s = rate(now.read_only, then.read_only, seconds);
  row.rollbacks_per_s = rate(now.rollbacks, then.rollbacks, seconds);
  row.combined_per_s = rate(now.combined, then.combined, seconds);
  row.lock_waits_per_s = rate(now.lock_waits, then.lock_waits, seconds);
  row.conflict_share = share(row.conflicts_per_s, row.commits_per_s);
  return row;
}

}  // namespace

double rate(std::uint64_t now, std::uint64_t before, double seconds) {
  if (now <= before || seconds <= 0) return 0;
  return static_cast<double>(now - before) / seconds;
}

std::optional<double> share(double conflicts, double commits) {
  const double attempts = conflicts + commits;
  if (attempts <= 0) return std::nullopt;
  return conflicts / attempts;
}

std::string process_state(std::optional<char> letter) {
  if (!letter) return "gone";
  switch (*letter) {
    case 'R':
      return "run";
    case 'S':
    case 'D':
    case 'I':
      return "sleep";
    case 'T':
    case 't':
      return "stopped";
    case 'Z':
    case 'X':
      return "zombie";
    default:
      return "?";
  }
}

PinAge Observation::age(const WorkerSample& worker, const Sample& sample) {
  const PinSample& pin = *worker.oldest_pin;
  KnownPin& known = known_[worker.slot];
  if (known.seen_ns == 0 || known.admission != worker.admission || known.index != pin.index ||
      known.version != pin.version) {
    known = {worker.admission, pin.index, pin.version, sample.taken_ns};
  }
  PinAge age;
  age.slot = worker.slot;
  age.pid = worker.pid;
  age.version = pin.version;
  age.versions_behind = sample.clock - std::min(pin.version, sample.clock);
  const bool recorded = pin.taken_ns != 0 && pin.taken_ns <= sample.taken_ns;
  const std::uint64_t since = recorded ? pin.taken_ns : known.seen_ns;
  age.seconds = static_cast<double>(sample.taken_ns - since) / kNsPerSecond;
  age.at_least = !recorded;
  return age;
}

Picture Observation::see(Sample sample, std::uint64_t unix_ns) {
  Picture picture;
  // Against itself, a first sample has no rates.
  const Sample& before = before_ ? *before_ : sample;
  const double seconds =
      static_cast<double>(sample.taken_ns - std::min(before.taken_ns, sample.taken_ns)) /
      kNsPerSecond;
  picture.interval_s = seconds;
  picture.uptime_s =
      static_cast<double>(unix_ns - std::min(sample.created_at_ns, unix_ns)) / kNsPerSecond;
  picture.commits_per_s = rate(sample.clock, before.clock, seconds);
  for (const WorkerSample& worker : sample.workers) {
    WorkerRow row = row_of(worker, before, seconds);
    if (worker.oldest_pin) {
      row.pin = age(worker, sample);
      if (!picture.oldest_pin || row.pin->version < picture.oldest_pin->version) {
        picture.oldest_pin = row.pin;
      }
    } else {
      known_.erase(worker.slot);
    }
    picture.conflicts_per_s += row.conflicts_per_s;
    picture.read_only_per_s += row.read_only_per_s;
    picture.workers.push_back(std::move(row));
  }
  picture.conflict_share = share(picture.conflicts_per_s, picture.commits_per_s);
  before_ = sample;
  picture.sample = std::move(sample);
  return picture;
}

}  // namespace theus::top
