// Worker processes side by side. One iteration is one run of half a second; the numbers are the
// counters, over all workers.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>

#include "bench/world.h"

namespace theus::bench {
namespace {

using worker::CommitResult;
using worker::Entry;
using worker::Isolation;
using worker::Transaction;

constexpr double kSeconds = 0.5;

enum class How { kOneCounter, kDisjointKeys, kFolded };

void increments(benchmark::State& state, How how) {
  const int workers = static_cast<int>(state.range(0));
  World world;
  const std::unique_ptr<worker::Session> session = world.attach();
  commit(*session, [workers](Transaction& t) {
    for (int i = 0; i < workers; ++i) t.put_int(t.entry(t.root(), key("n" + std::to_string(i))), 0);
  });
  Totals sum;
  for (auto _ : state) {
    const Totals totals = run_workers(world, workers, kSeconds, [how](Transaction& t, int index) {
      const int which = how == How::kDisjointKeys ? index : 0;
      const char name[] = {'n', static_cast<char>('0' + which), 0};
      t.begin(Isolation::kSerializable);
      Entry* entry = t.entry(t.root(), key(name));
      if (how == How::kFolded) {
        t.fold(entry, shm::Fold::kAdd, shm::Number::of(std::int64_t{1}));
      } else {
        t.put_int(entry, t.read(entry).integer + 1);
      }
      return t.commit().status != CommitResult::Status::kConflict;
    });
    state.SetIterationTime(totals.seconds);
    sum.commits += totals.commits;
    sum.conflicts += totals.conflicts;
    sum.seconds += totals.seconds;
  }
  worker::Snapshot snapshot(*session);
  std::uint64_t counted = 0;
  for (int i = 0; i < workers; ++i) {
    counted += static_cast<std::uint64_t>(
        snapshot.find(snapshot.root(), key("n" + std::to_string(i))).integer);
  }
  if (counted != sum.commits) state.SkipWithError("the counters do not add up to the commits");
  state.counters["commits_per_s"] = static_cast<double>(sum.commits) / sum.seconds;
  state.counters["conflicts_per_s"] = static_cast<double>(sum.conflicts) / sum.seconds;
}

BENCHMARK_CAPTURE(increments, one_counter, How::kOneCounter)
    ->Arg(1)
    ->Arg(2)
    ->Arg(4)
    ->Iterations(3)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(increments, folded, How::kFolded)
    ->Arg(1)
    ->Arg(2)
    ->Arg(4)
    ->Iterations(3)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(increments, disjoint_keys, How::kDisjointKeys)
    ->Arg(1)
    ->Arg(2)
    ->Arg(4)
    ->Iterations(3)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace theus::bench
