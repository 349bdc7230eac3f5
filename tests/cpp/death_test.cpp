// Death at any instruction: workers are killed at random moments, and one is killed after every
// k-th instruction of a commit. Afterwards every structure must be whole, nothing lost, torn,
// doubled or leaked.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <random>

#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"
#include "worker/internals.h"

namespace theus::testing {
namespace {

using worker::Entry;
using worker::Session;
using worker::Snapshot;
using worker::Transaction;
using worker::Value;

// One transaction that touches everything: a counter twice, a row (replaced as a whole), an insert
// with a delete, text in blocks and a large value in a run of extents.
void busy(Transaction& t, std::int64_t n) {
  Entry* first = at(t, {"first"});
  Entry* second = at(t, {"second"});
  t.put_int(first, t.read(first).integer + 1);
  auto* row = t.put_mapping(at(t, {"rows", std::to_string(n % 5)}));
  t.put_int(t.entry(row, key("a")), n);
  t.put_str(t.entry(row, key("text")), std::string(40 + static_cast<std::size_t>(n % 300), 'x'));
  auto* inner = t.put_mapping(t.entry(row, key("inner")));
  t.put_int(t.entry(inner, key("b")), n);
  t.put_int(at(t, {"rows", "k" + std::to_string(n)}), n);
  if (n >= 3) t.erase(at(t, {"rows", "k" + std::to_string(n - 3)}));
  if (n % 7 == 0) t.put_bytes(at(t, {"large"}), std::string(100'000, static_cast<char>(n)));
  t.put_int(second, t.read(second).integer + 1);
}

void prepare(Session& session) {
  commit(session, [](Transaction& t) {
    t.put_int(at(t, {"first"}), 0);
    t.put_int(at(t, {"second"}), 0);
    t.put_mapping(at(t, {"rows"}));
  });
}

std::int64_t total(World& world) {
  auto session = world.attach();
  Snapshot snapshot(*session);
  const std::int64_t first = read(snapshot, {"first"}).integer;
  EXPECT_EQ(first, read(snapshot, {"second"}).integer) << "torn";
  return first;
}

// Shared between this process and its children.
struct Board {
  std::atomic<std::int64_t> acknowledged{0};
  std::atomic<std::int64_t> started{0};
};

class Shared {
 public:
  Shared()
      : board_(new (mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0)) Board()) {}
  ~Shared() { munmap(board_, sizeof(Board)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  Board* operator->() { return board_; }

 private:
  Board* board_;
};

TEST(Death, RandomKillsLeaveEverythingWhole) {
  World world(128ull << 20);
  Shared board;
  {
    auto session = world.attach();
    prepare(*session);
  }
  std::mt19937 random(20240817);
  constexpr int kRounds = 120, kWorkers = 3;
  std::int64_t killed_in_flight = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<std::pair<pid_t, std::uint32_t>> workers;
    for (int w = 0; w < kWorkers; ++w) {
      const std::uint32_t slot = world.admit(getpid());
      workers.emplace_back(fork_worker(world, slot, [&, w](Session& session) {
                             if (w == 0) session.internals().validate_above = 0;
                             for (std::int64_t n = 0;; ++n) {
                               board->started.fetch_add(1);
                               commit(session, [&](Transaction& t) { busy(t, n * 3); });
                               board->acknowledged.fetch_add(1);
                             }
                           }),
                           slot);
    }
    // Let them work for a moment of random length, counted in commits and instructions, not time.
    const std::int64_t goal =
        board->acknowledged.load() + std::uniform_int_distribution<int>(1, 60)(random);
    while (board->acknowledged.load() < goal) std::this_thread::yield();
    for (int spin = std::uniform_int_distribution<int>(0, 3000)(random); spin > 0; --spin) {
      std::atomic_signal_fence(std::memory_order_seq_cst);
    }
    std::shuffle(workers.begin(), workers.end(), random);
    for (const auto& [pid, slot] : workers) kill(pid, SIGKILL);
    for (const auto& [pid, slot] : workers) wait_for(pid);
    for (const auto& [pid, slot] : workers) world.evict(slot);
    killed_in_flight += kWorkers;
    const Audit result = audit(world, /*at_rest=*/true);
    ASSERT_TRUE(result.faults.empty()) << "round " << round << "\n" << result.text();
    const std::int64_t sum = total(world);
    ASSERT_GE(sum, board->acknowledged.load()) << "an acknowledged commit was lost";
    ASSERT_LE(sum, board->acknowledged.load() + killed_in_flight) << "a commit was doubled";
  }
  world.reclaim_all();
  EXPECT_TRUE(audit(world, true).faults.empty()) << audit(world, true).text();
  EXPECT_GT(world.space().header().repairs.load(), 0u) << "no kill ever hit the lock's owner";
}

// The processor traps after each instruction while its trap flag is set; the handler counts them
// and kills this very process at the chosen one. (Stepping from outside with ptrace does the same
// ten times slower.)
volatile std::int64_t steps_left = 0;

void count_step(int) {
  steps_left = steps_left - 1;
  if (steps_left == 0) kill(getpid(), SIGKILL);
}

void kill_after(std::int64_t steps) {
  struct sigaction action {};
  action.sa_handler = count_step;
  sigaction(SIGTRAP, &action, nullptr);
  steps_left = steps;
#if defined(__x86_64__)
  asm volatile("pushfq; orq $0x100, (%%rsp); popfq" ::: "memory", "cc");
#endif
}

void stop_counting() {
#if defined(__x86_64__)
  asm volatile("pushfq; andq $~0x100, (%%rsp); popfq" ::: "memory", "cc");
#endif
}

TEST(Death, AfterAnyInstructionOfACommit) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__x86_64__)
  GTEST_SKIP() << "needs the trap flag of x86-64 and code without instrumentation";
#endif
  World world(64ull << 20);
  Shared board;
  {
    auto session = world.attach();
    prepare(*session);
    for (int n = 0; n < 10; ++n) commit(*session, [&](Transaction& t) { busy(t, n); });
  }
  // The offset differs from run to run, so that over time every instruction is hit.
  const std::int64_t stride = 701;
  std::int64_t steps = 1 + std::chrono::steady_clock::now().time_since_epoch().count() % stride;
  std::int64_t expected = total(world);
  int committed = 0, lost = 0, finished = 0;
  for (std::int64_t n = 10; finished == 0 && n < 4000; n += 2, steps += stride) {
    const std::uint32_t slot = world.admit(getpid());
    const pid_t pid = fork_worker(world, slot, [&](Session& session) {
      // The stock is filled by a commit that is not counted.
      commit(session, [&](Transaction& t) { busy(t, n); });
      board->acknowledged.store(n);
      Transaction t(session);
      t.begin(worker::Isolation::kSerializable);
      busy(t, n + 1);
      kill_after(steps);
      t.commit();
      stop_counting();
    });
    const int status = wait_for(pid);
    finished += WIFEXITED(status) ? 1 : 0;
    // The next one takes the lock, repairs, and goes on at once: also before the eviction.
    ASSERT_EQ(board->acknowledged.load(), n);
    ++expected;
    const std::int64_t now = total(world);
    ASSERT_TRUE(now == expected || now == expected + 1) << now << " after " << expected;
    ++(now == expected ? lost : committed);
    world.evict(slot);
    const std::int64_t later = total(world);
    ASSERT_TRUE(later == now || later == expected + 1);
    expected = later;
    const Audit result = audit(world, /*at_rest=*/true);
    ASSERT_TRUE(result.faults.empty()) << "after " << steps << " steps\n" << result.text();
  }
  EXPECT_EQ(finished, 1) << "the commit never came to its end";
  EXPECT_GT(committed, 1);
  EXPECT_GT(lost, 10);
  RecordProperty("instructions", static_cast<int>(steps));
  RecordProperty("repairs", static_cast<int>(world.space().header().repairs.load()));
  EXPECT_GT(world.space().header().repairs.load(), 10u);
}

}  // namespace
}  // namespace theus::testing
