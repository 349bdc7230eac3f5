// From two samples to what is shown: rates, shares, ages.
//
// Thread safety: an Observation belongs to one thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tools/top/sample.h"

namespace theus::top {

struct PinAge {
  std::uint32_t slot = 0;
  std::uint32_t pid = 0;
  std::uint64_t version = 0;
  std::uint64_t versions_behind = 0;
  double seconds = 0;
  bool at_least = false;  // its beginning is not recorded: this is since it was first seen here
};

struct WorkerRow {
  WorkerSample sample;
  std::string state;  // of the process: run, sleep, stopped, zombie, gone; or leaving
  double commits_per_s = 0;
  double conflicts_per_s = 0;
  double read_only_per_s = 0;
  double rollbacks_per_s = 0;
  double combined_per_s = 0;
  double lock_waits_per_s = 0;
  std::optional<double> conflict_share;  // of attempts to commit; nullopt: there were none
  std::optional<PinAge> pin;             // its oldest
};

struct Picture {
  std::string name;
  std::uint32_t supervisor_pid = 0;
  bool restarting = false;  // the coordinator has ended and its supervisor is at it
  double uptime_s = 0;      // of the state
  double interval_s = 0;    // that the rates are taken over
  Sample sample;
  double commits_per_s = 0;  // everybody's, those who have left since included
  double conflicts_per_s = 0;
  double read_only_per_s = 0;
  std::optional<double> conflict_share;
  std::optional<PinAge> oldest_pin;
  std::vector<WorkerRow> workers;
};

// (now - before) / seconds; 0 when that makes no sense (a counter that went back, no time).
double rate(std::uint64_t now, std::uint64_t before, double seconds);
// conflicts / (commits + conflicts), of numbers or of rates.
std::optional<double> share(double conflicts, double commits);
// What a state letter of /proc/PID/stat is called here; nullopt: no such process.
std::string process_state(std::optional<char> letter);

// Follows one state from sample to sample.
class Observation {
 public:
  // The first sample has no rates. `unix_ns`: CLOCK_REALTIME. The names of states are the
  // caller's to fill in: they are no part of shared memory.
  Picture see(Sample sample, std::uint64_t unix_ns);

 private:
  // The oldest pin of a slot, since when it is known. A pin is the same as long as tenant, place
  // and version are.
  struct KnownPin {
    std::uint64_t admission = 0;
    std::uint32_t index = 0;
    std::uint64_t version = 0;
    std::uint64_t seen_ns = 0;
  };
  PinAge age(const WorkerSample& worker, const Sample& sample);

  std::optional<Sample> before_;
  std::map<std::uint32_t, KnownPin> known_;
};

}  // namespace theus::top
