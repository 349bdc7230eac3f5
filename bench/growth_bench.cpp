// How a state's size tells: reads and commits at 10 thousand, 1 million and 10 million leaves, the
// longest single commit on the way there, and what a leaf costs in memory.
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "bench/growth.h"
#include "bench/world.h"

namespace theus::bench {
namespace {

using Clock = std::chrono::steady_clock;
using worker::Entry;
using worker::Isolation;
using worker::Mapping;
using worker::Snapshot;
using worker::Transaction;

constexpr std::uint64_t kLeavesPerMapping = 1000;
constexpr std::uint64_t kLeavesPerCommit = 10;
constexpr std::uint64_t kHotLeaves = 1'000;  // with all that belongs to them, in the L2 cache

// Time this thread was given: on a machine that is not quiet, the longest of a hundred thousand
// commits by the wall clock is one that was preempted.
double cpu_us() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

class Name {
 public:
  explicit Name(std::uint64_t number)
      : length_(
            std::snprintf(text_, sizeof text_, "k%llu", static_cast<unsigned long long>(number))) {}
  std::string_view view() const { return {text_, static_cast<std::size_t>(length_)}; }

 private:
  char text_[24];
  int length_;
};

// A state of `leaves` ints in mappings of a thousand, and what was seen while it grew.
struct Grown {
  World world;
  std::unique_ptr<worker::Session> session;
  std::uint64_t leaves;
  double worst_commit_us = 0;
  double worst_commit_cpu_us = 0;
  double bytes_per_leaf = 0;
  double seconds = 0;

  explicit Grown(std::uint64_t leaves_wanted)
      : world(std::max<std::uint64_t>(64ull << 20, leaves_wanted * 320)),
        session(world.attach()),
        leaves(leaves_wanted) {
    const std::uint64_t used_before = world.used_bytes();
    const Clock::time_point begin = Clock::now();
    Transaction t(*session);
    for (std::uint64_t i = 0; i < leaves; i += kLeavesPerCommit) {
      t.begin(Isolation::kSerializable);
      Entry* entry = t.entry(t.root(), key(Name(i / kLeavesPerMapping).view()));
      Mapping* mapping = entry->value.kind == worker::Value::Kind::kMapping ? t.child(entry)
                                                                            : t.put_mapping(entry);
      for (std::uint64_t k = i; k < std::min(i + kLeavesPerCommit, leaves); ++k) {
        t.put_int(t.entry(mapping, key(Name(k).view())), static_cast<std::int64_t>(k));
      }
      const Clock::time_point submit = Clock::now();
      const double submit_cpu_us = cpu_us();
      t.commit();
      worst_commit_cpu_us = std::max(worst_commit_cpu_us, cpu_us() - submit_cpu_us);
      const double us = std::chrono::duration<double, std::micro>(Clock::now() - submit).count();
      worst_commit_us = std::max(worst_commit_us, us);
    }
    seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    bytes_per_leaf =
        static_cast<double>(world.used_bytes() - used_before) / static_cast<double>(leaves);
  }
};

// A state takes long to grow and both benchmarks only need it to be there: one is kept, and the
// next size replaces it.
Grown& grown(std::uint64_t leaves) {
  static std::unique_ptr<Grown> kept;
  if (!kept || kept->leaves != leaves) {
    kept.reset();
    kept = std::make_unique<Grown>(leaves);
  }
  return *kept;
}

struct Random {
  std::uint64_t state = 88172645463325252ull;
  std::uint64_t below(std::uint64_t limit) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % limit;
  }
};

// The growth itself; not timed leaf by leaf, its numbers are the counters.
void growth(benchmark::State& state, std::uint64_t leaves) {
  for (auto _ : state) benchmark::DoNotOptimize(&grown(leaves));
  const Grown& g = grown(leaves);
  state.counters["worst_commit_us"] = g.worst_commit_us;
  state.counters["worst_commit_cpu_us"] = g.worst_commit_cpu_us;
  state.counters["bytes_per_leaf"] = g.bytes_per_leaf;
  state.counters["leaves_per_s"] = static_cast<double>(g.leaves) / g.seconds;
}

// One of the first `hot` leaves, by way of its mapping. As long as these are the same few at any
// size, they stay in the processor's caches and what shows is the index; when they are all leaves,
// it is the machine's memory latency.
void read(benchmark::State& state, std::uint64_t leaves, std::uint64_t hot) {
  Grown& g = grown(leaves);
  Snapshot snapshot(*g.session);
  const std::uint64_t root = snapshot.root();
  Random random;
  for (auto _ : state) {
    const std::uint64_t leaf = random.below(hot);
    const std::uint64_t node = snapshot.find(root, key(Name(leaf / kLeavesPerMapping).view())).node;
    benchmark::DoNotOptimize(snapshot.find(node, key(Name(leaf).view())).integer);
  }
}

void commit_any(benchmark::State& state, std::uint64_t leaves) {
  Grown& g = grown(leaves);
  Transaction t(*g.session);
  Random random;
  for (auto _ : state) {
    const std::uint64_t leaf = random.below(leaves);
    t.begin(Isolation::kSerializable);
    Entry* mapping = t.entry(t.root(), key(Name(leaf / kLeavesPerMapping).view()));
    Entry* entry = t.entry(t.child(mapping), key(Name(leaf).view()));
    t.put_int(entry, t.read(entry).integer + 1);
    t.commit();
  }
}

}  // namespace

void register_growth(bool large) {
  for (const std::uint64_t leaves : {10'000ull, 1'000'000ull, 10'000'000ull}) {
    if (leaves > 1'000'000 && !large) break;
    const auto named = [leaves](const char* what) {
      return std::string(what) + "/" + std::to_string(leaves);
    };
    benchmark::RegisterBenchmark(named("growth").c_str(), growth, leaves)
        ->Iterations(1)
        ->Unit(benchmark::kSecond);
    benchmark::RegisterBenchmark(named("growth_read_hot").c_str(), read, leaves, kHotLeaves);
    benchmark::RegisterBenchmark(named("growth_read_any").c_str(), read, leaves, leaves);
    benchmark::RegisterBenchmark(named("growth_commit_any").c_str(), commit_any, leaves);
  }
}

}  // namespace theus::bench
