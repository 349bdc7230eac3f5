// One worker, nobody else: what a transaction costs.
#include <benchmark/benchmark.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bench/world.h"

namespace theus::bench {
namespace {

using worker::Entry;
using worker::Isolation;
using worker::Mapping;
using worker::Snapshot;
using worker::Transaction;
using worker::Value;

constexpr std::array<std::string_view, 6> kFields = {"id",    "name",  "price",
                                                     "stock", "place", "active"};
constexpr int kAccounts = 1000;
constexpr int kRows = 1000;

std::string numbered(const char* prefix, std::uint64_t number) {
  return prefix + std::to_string(number);
}

void fill_row(Transaction& t, Mapping* row, std::int64_t id) {
  t.put_int(t.entry(row, key(kFields[0])), id);
  t.put_str(t.entry(row, key(kFields[1])), "article");
  t.put_float(t.entry(row, key(kFields[2])), 1.5);
  t.put_int(t.entry(row, key(kFields[3])), 10);
  t.put_str(t.entry(row, key(kFields[4])), "B7");
  t.put_bool(t.entry(row, key(kFields[5])), true);
}

// Keys are made before the clock runs: building strings is not what is measured.
std::vector<std::string> names(const char* prefix, int count) {
  std::vector<std::string> result;
  for (int i = 0; i < count; ++i) result.push_back(numbered(prefix, static_cast<unsigned>(i)));
  return result;
}

// root: counter (int), accounts (mapping of ints), rows (mapping of rows of six fields), new {}
struct State {
  World world;
  std::unique_ptr<worker::Session> session = world.attach();
  State() {
    commit(*session, [](Transaction& t) {
      t.put_int(t.entry(t.root(), key("counter")), 0);
      Mapping* accounts = t.put_mapping(t.entry(t.root(), key("accounts")));
      for (const std::string& name : names("a", kAccounts)) {
        t.put_int(t.entry(accounts, key(name)), 100);
      }
      Mapping* rows = t.put_mapping(t.entry(t.root(), key("rows")));
      std::int64_t id = 0;
      for (const std::string& name : names("r", kRows)) {
        fill_row(t, t.put_mapping(t.entry(rows, key(name))), id++);
      }
      t.put_mapping(t.entry(t.root(), key("new")));
    });
  }
};

void count_conflicts(benchmark::State& state, const worker::CommitResult& result) {
  if (result.status == worker::CommitResult::Status::kConflict) {
    state.SkipWithError("a conflict, with nobody else there");
  }
}

// Open, read one scalar at the root, close. Budget: 40 ns.
void snapshot_one_read(benchmark::State& state) {
  State s;
  for (auto _ : state) {
    Snapshot snapshot(*s.session);
    benchmark::DoNotOptimize(snapshot.find(snapshot.root(), key("counter")).integer);
  }
}
BENCHMARK(snapshot_one_read);

// Only the pin.
void snapshot_open_close(benchmark::State& state) {
  State s;
  for (auto _ : state) {
    Snapshot snapshot(*s.session);
    benchmark::DoNotOptimize(snapshot.version());
  }
}
BENCHMARK(snapshot_open_close);

// The same read through a Transaction that writes nothing.
void transaction_one_read(benchmark::State& state) {
  State s;
  Transaction t(*s.session);
  for (auto _ : state) {
    t.begin(Isolation::kSerializable);
    benchmark::DoNotOptimize(t.read(t.entry(t.root(), key("counter"))).integer);
    t.commit();
  }
}
BENCHMARK(transaction_one_read);

// A scalar at the root within an open snapshot. Budget: 50 ns.
void scalar_read(benchmark::State& state) {
  State s;
  Snapshot snapshot(*s.session);
  const std::uint64_t root = snapshot.root();
  for (auto _ : state) benchmark::DoNotOptimize(snapshot.find(root, key("counter")).integer);
}
BENCHMARK(scalar_read);

// One of a thousand scalars, in an order that the processor cannot guess.
void scalar_read_spread(benchmark::State& state) {
  State s;
  Snapshot snapshot(*s.session);
  const std::uint64_t node = snapshot.find(snapshot.root(), key("accounts")).node;
  const std::vector<std::string> keys = names("a", kAccounts);
  std::uint64_t i = 0;
  for (auto _ : state) {
    i = (i * 5 + 3) % kAccounts;
    benchmark::DoNotOptimize(snapshot.find(node, key(keys[i])).integer);
  }
}
BENCHMARK(scalar_read_spread);

// All six fields of a row by iteration, in an open snapshot.
void row_read(benchmark::State& state) {
  State s;
  Snapshot snapshot(*s.session);
  const std::uint64_t rows = snapshot.find(snapshot.root(), key("rows")).node;
  const std::vector<std::string> keys = names("r", kRows);
  std::uint64_t i = 0;
  for (auto _ : state) {
    i = (i * 5 + 3) % kRows;
    Snapshot::Cursor cursor = snapshot.iterate(snapshot.find(rows, key(keys[i])).node);
    shm::KeyView field;
    Value value;
    while (snapshot.next(cursor, &field, &value)) benchmark::DoNotOptimize(value.integer);
  }
}
BENCHMARK(row_read);

// Read, add one, write, commit. Budget: 250 ns.
void commit_one_key(benchmark::State& state) {
  State s;
  Transaction t(*s.session);
  for (auto _ : state) {
    t.begin(Isolation::kSerializable);
    Entry* entry = t.entry(t.root(), key("counter"));
    t.put_int(entry, t.read(entry).integer + 1);
    count_conflicts(state, t.commit());
  }
}
BENCHMARK(commit_one_key);

// The same of one of a thousand keys a level below.
void commit_one_key_spread(benchmark::State& state) {
  State s;
  Transaction t(*s.session);
  const std::vector<std::string> keys = names("a", kAccounts);
  std::uint64_t i = 0;
  for (auto _ : state) {
    i = (i * 5 + 3) % kAccounts;
    t.begin(Isolation::kSerializable);
    Entry* entry = t.entry(t.child(t.entry(t.root(), key("accounts"))), key(keys[i]));
    t.put_int(entry, t.read(entry).integer + 1);
    count_conflicts(state, t.commit());
  }
}
BENCHMARK(commit_one_key_spread);

// Add one to whatever is there at commit.
void fold_one_key(benchmark::State& state) {
  State s;
  Transaction t(*s.session);
  for (auto _ : state) {
    t.begin(Isolation::kSerializable);
    t.fold(t.entry(t.root(), key("counter")), shm::Fold::kAdd, shm::Number::of(std::int64_t{1}));
    count_conflicts(state, t.commit());
  }
}
BENCHMARK(fold_one_key);

// Write without reading, snapshot isolation.
void put_blind(benchmark::State& state) {
  State s;
  Transaction t(*s.session);
  std::int64_t i = 0;
  for (auto _ : state) {
    t.begin(Isolation::kSnapshot);
    t.put_int(t.entry(t.root(), key("counter")), ++i);
    count_conflicts(state, t.commit());
  }
}
BENCHMARK(put_blind);

// A key that was not there.
void insert_new_key(benchmark::State& state) {
  State s;
  Transaction t(*s.session);
  char name[32];
  std::uint64_t i = 0;
  for (auto _ : state) {
    const int length =
        std::snprintf(name, sizeof name, "n%llu", static_cast<unsigned long long>(++i));
    t.begin(Isolation::kSerializable);
    Mapping* mapping = t.child(t.entry(t.root(), key("new")));
    t.put_int(t.entry(mapping, key({name, static_cast<std::size_t>(length)})), 1);
    count_conflicts(state, t.commit());
  }
}
BENCHMARK(insert_new_key)->Iterations(500'000);

// Two of a thousand accounts: read both, write both.
void transfer(benchmark::State& state) {
  State s;
  Transaction t(*s.session);
  const std::vector<std::string> keys = names("a", kAccounts);
  std::uint64_t i = 0;
  for (auto _ : state) {
    i = (i * 5 + 3) % kAccounts;
    t.begin(Isolation::kSerializable);
    Mapping* accounts = t.child(t.entry(t.root(), key("accounts")));
    Entry* from = t.entry(accounts, key(keys[i]));
    Entry* to = t.entry(accounts, key(keys[(i + 1) % kAccounts]));
    t.put_int(from, t.read(from).integer - 1);
    t.put_int(to, t.read(to).integer + 1);
    count_conflicts(state, t.commit());
  }
}
BENCHMARK(transfer);

// A whole row of six fields is replaced by a new mapping.
void row_replace(benchmark::State& state) {
  State s;
  Transaction t(*s.session);
  const std::vector<std::string> keys = names("r", kRows);
  std::uint64_t i = 0;
  for (auto _ : state) {
    i = (i * 5 + 3) % kRows;
    t.begin(Isolation::kSerializable);
    Mapping* rows = t.child(t.entry(t.root(), key("rows")));
    fill_row(t, t.put_mapping(t.entry(rows, key(keys[i]))), static_cast<std::int64_t>(i));
    count_conflicts(state, t.commit());
  }
}
BENCHMARK(row_replace);

// The six fields of a row are written in place: no node and no key is made.
void row_update(benchmark::State& state) {
  State s;
  Transaction t(*s.session);
  const std::vector<std::string> keys = names("r", kRows);
  std::uint64_t i = 0;
  for (auto _ : state) {
    i = (i * 5 + 3) % kRows;
    t.begin(Isolation::kSerializable);
    Mapping* rows = t.child(t.entry(t.root(), key("rows")));
    fill_row(t, t.child(t.entry(rows, key(keys[i]))), static_cast<std::int64_t>(i));
    count_conflicts(state, t.commit());
  }
}
BENCHMARK(row_update);

}  // namespace
}  // namespace theus::bench
