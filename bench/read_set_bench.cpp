// A transaction that has read much and writes one key: what it costs its worker, and for how long
// it keeps the arbitration lock from everybody else.
//
// The hold is the CPU time of deciding, in the thread that commits: `before_request` makes the
// request and has it decided, and what the commit does after it finds the answer there.
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/world.h"
#include "worker/internals.h"

namespace theus::bench {
namespace {

using worker::Entry;
using worker::Isolation;
using worker::Mapping;
using worker::Transaction;

double cpu_us() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

double median(std::vector<double>& numbers) {
  std::sort(numbers.begin(), numbers.end());
  return numbers.empty() ? 0 : numbers[numbers.size() / 2];
}

enum class Case {
  kWalked,     // under the lock
  kValidated,  // by the worker
  kHit,        // the same, and each write is to a key that it has looked for, besides as many
               // absent ones as there are others: the most that the arbiter can have to do
};

// range(0) keys are read; range(1) others are written, one a commit, by somebody else between
// validation and arbitration.
void read_set(benchmark::State& state, Case which) {
  const auto count = static_cast<std::size_t>(state.range(0));
  const int writes = static_cast<int>(state.range(1));
  World world(512ull << 20);
  const auto session = world.attach();
  const auto other = world.attach();
  std::vector<std::string> names;
  for (std::size_t i = 0; i < count; ++i) names.push_back("key " + std::to_string(i));
  for (std::size_t i = 0; i < count; i += 10'000) {
    commit(*session, [&](Transaction& t) {
      Entry* all = t.entry(t.root(), key("all"));
      Mapping* m = i == 0 ? t.put_mapping(all) : t.child(all);
      for (std::size_t k = i; k < std::min(count, i + 10'000); ++k) {
        t.put_int(t.entry(m, key(names[k])), 1);
      }
      if (i != 0) return;
      t.put_int(t.entry(t.root(), key("sum")), 0);
      Mapping* busy = t.put_mapping(t.entry(t.root(), key("busy")));
      for (int w = 0; w < 1000; ++w) t.put_int(t.entry(busy, key("b" + std::to_string(w))), 0);
    });
  }
  worker::Session::Internals& in = session->internals();
  in.validate_above = which == Case::kWalked ? count * 3 : worker::kValidateAbove;
  std::vector<double> prepare_us, hold_us;
  double start = 0;
  bool first = true;
  in.before_request = [&] {
    if (first) {
      prepare_us.push_back(cpu_us() - start);
      for (int w = 0; w < writes; ++w) {
        commit(*other, [w](Transaction& t) {
          Mapping* busy = t.child(t.entry(t.root(), key("busy")));
          t.put_int(t.entry(busy, key("b" + std::to_string(w % 1000))), w);
        });
      }
    }
    first = false;
    in.lock(worker::OnSignal::kGoOn);
    in.desk->request.store(in.sequence + 1, std::memory_order_seq_cst);
    const double begin = cpu_us();
    in.arbiter.drain(1);
    hold_us.push_back(cpu_us() - begin);
    in.arbiter.unlock();
  };
  Transaction t(*session);
  for (auto _ : state) {
    t.begin(Isolation::kSerializable);
    Mapping* m = t.child(t.entry(t.root(), key("all")));
    std::int64_t sum = 0;
    for (const std::string& name : names) sum += t.read(t.entry(m, key(name))).integer;
    if (which == Case::kHit) {
      Mapping* busy = t.child(t.entry(t.root(), key("busy")));
      for (int w = 0; w < 1000; ++w) t.contains(t.entry(busy, key("b" + std::to_string(w))));
      for (const std::string& name : names) t.contains(t.entry(busy, key(name)));
    }
    t.put_int(t.entry(t.root(), key("sum")), sum);
    first = true;
    start = cpu_us();
    if (t.commit().status != worker::CommitResult::Status::kCommitted) {
      state.SkipWithError("a conflict, with nobody there");
    }
  }
  in.before_request = nullptr;
  state.counters["holds"] =
      static_cast<double>(hold_us.size()) / static_cast<double>(state.iterations());
  state.counters["hold_us"] = median(hold_us);
  state.counters["hold_worst_us"] = hold_us.back();  // sorted by now
  state.counters["prepare_us"] = median(prepare_us);
}

BENCHMARK_CAPTURE(read_set, walked, Case::kWalked)
    ->ArgsProduct({{100, 1'000, 10'000, 100'000}, {0}})
    ->Iterations(40)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(read_set, validated, Case::kValidated)
    ->ArgsProduct({{10'000, 100'000}, {0, 1'000, 10'000}})
    ->Iterations(40)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(read_set, hit, Case::kHit)
    ->ArgsProduct({{100'000}, {1'000, 10'000}})
    ->Iterations(20)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace theus::bench
