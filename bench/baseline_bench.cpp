// What the operating system asks for the least that could do the job: measured in the same run,
// so that a slow machine does not look like a slow engine.
#include <benchmark/benchmark.h>
#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <stdexcept>

namespace theus::bench {
namespace {

void mutex_increment(benchmark::State& state) {
  std::mutex mutex;
  std::uint64_t counter = 0;
  for (auto _ : state) {
    const std::lock_guard<std::mutex> lock(mutex);
    benchmark::DoNotOptimize(++counter);
  }
}
BENCHMARK(mutex_increment);

// The kind of lock that arbitration takes.
void robust_mutex(benchmark::State& state) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutex_t mutex;
  if (pthread_mutex_init(&mutex, &attributes) != 0) throw std::runtime_error("no mutex");
  for (auto _ : state) {
    pthread_mutex_lock(&mutex);
    benchmark::ClobberMemory();
    pthread_mutex_unlock(&mutex);
  }
  pthread_mutex_destroy(&mutex);
  pthread_mutexattr_destroy(&attributes);
}
BENCHMARK(robust_mutex);

// A sequentially consistent store: what a pin has to do at the very least.
void ordered_store(benchmark::State& state) {
  std::atomic<std::uint64_t> word{0};
  std::uint64_t i = 0;
  for (auto _ : state) word.store(++i, std::memory_order_seq_cst);
}
BENCHMARK(ordered_store);

}  // namespace
}  // namespace theus::bench
