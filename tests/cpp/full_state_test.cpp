// A full state: deletes always work and free, and whatever they need for it comes back.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "shm/extents.h"
#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"
#include "worker/stock.h"

namespace theus::testing {
namespace {

using worker::CapacityError;
using worker::CommitResult;
using worker::Isolation;
using worker::Mapping;
using worker::Session;
using worker::Snapshot;
using worker::Transaction;

constexpr int kDeletes = 50'000;

std::string name_of_key(int i) { return "k" + std::to_string(i); }

// Commits once; false: there was no room for it.
bool commits(Session& by, const std::function<void(Transaction&)>& body) {
  Transaction t(by);
  t.begin(Isolation::kSerializable);
  try {
    body(t);
    EXPECT_EQ(t.commit().status, CommitResult::Status::kCommitted);
    return true;
  } catch (const CapacityError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("nothing was written"), std::string::npos) << text;
    return false;
  }
}

Mapping* rows(Transaction& t) { return t.child(at(t, {"rows"})); }

class FullState : public ::testing::Test {
 protected:
  static constexpr int kRows = 100'000;
  static constexpr int kSmallMappings = 12;

  // Small numbers under "rows", then whatever fills it up, until not even one number more fits.
  void fill(Session& by) {
    commit(by, [](Transaction& t) {
      Mapping* mapping = t.put_mapping(at(t, {"rows"}));
      for (int i = 0; i < kRows; ++i) t.put_int(t.entry(mapping, key(name_of_key(i))), i);
      for (int i = 0; i < kSmallMappings; ++i) {
        mapping = t.put_mapping(at(t, {"m" + std::to_string(i)}));
        t.put_int(t.entry(mapping, key("n")), i);
      }
    });
    int n = 0;
    for (std::uint64_t size = 8ull << 20; size >= 4096; size /= 2) {
      while (commits(
          by, [&](Transaction& t) { t.put_leaf(at(t, {"fill" + std::to_string(n)}), size); })) {
        ++n;
      }
    }
    const auto put = [&](Transaction& t) { t.put_int(at(t, {"fill" + std::to_string(n)}), n); };
    while (commits(by, put)) ++n;
  }
  // One transaction that deletes `count` rows, one by one.
  static bool erase(Session& by, int from, int count) {
    return commits(by, [&](Transaction& t) {
      for (int i = 0; i < count; ++i) {
        ASSERT_TRUE(t.erase(t.entry(rows(t), key(name_of_key(from + i)))));
      }
    });
  }
  static std::uint64_t count_rows(Session& by) {
    Snapshot snapshot(by);
    return snapshot.size(read(snapshot, {"rows"}).node);
  }
  shm::Extents::Reserve reserve(std::uint32_t slot = shm::kNoSlot) {
    const shm::Space& space = world.space();
    shm::StepJournal journal(space);
    return shm::Extents(space, journal).reserve(slot);
  }
  // What the coordinator does soon after its start.
  void back_reserve() {
    while (!world.arbiter().lock_for(1'000'000'000)) {
    }
    const auto lent = world.arbiter().lend_raw_reserve(kAll);
    world.arbiter().unlock();
    ASSERT_TRUE(lent);
    std::string why;
    const bool backed = world.space().back(world.arbiter().extent_offset(lent->extent),
                                           lent->length * shm::kExtentBytes, &why);
    ASSERT_TRUE(backed) << why;
    while (!world.arbiter().lock_for(1'000'000'000)) {
    }
    world.arbiter().restore(*lent, true);
    world.arbiter().unlock();
  }
  void TearDown() override {
    EXPECT_FALSE(reserve().lent);
    const Audit result = audit(world, false);
    EXPECT_TRUE(result.faults.empty()) << result.text();
  }

  static constexpr std::uint32_t kAll = ~0u;
  World world{128ull << 20};
  std::unique_ptr<Session> session = world.attach();
};

TEST_F(FullState, TensOfThousandsOfDeletesInOneTransaction) {
  fill(*session);
  EXPECT_TRUE(erase(*session, 0, kDeletes));
  EXPECT_EQ(count_rows(*session), static_cast<std::uint64_t>(kRows - kDeletes));
  world.reclaim_all();
  // What they freed can be used.
  EXPECT_TRUE(commits(*session, [](Transaction& t) {
    for (int i = 0; i < 1000; ++i) t.put_int(t.entry(rows(t), key(name_of_key(i))), i);
  }));
}

TEST_F(FullState, DeletesInManyMappingsByTurns) {
  constexpr int kMappings = 1000, kEach = 45;
  commit(*session, [](Transaction& t) {
    Mapping* many = t.put_mapping(at(t, {"many"}));
    for (int m = 0; m < kMappings; ++m) {
      Mapping* one = t.put_mapping(t.entry(many, key(name_of_key(m))));
      for (int i = 0; i < kEach; ++i) t.put_int(t.entry(one, key(name_of_key(i))), i);
    }
  });
  fill(*session);
  EXPECT_TRUE(commits(*session, [](Transaction& t) {
    Mapping* many = t.child(at(t, {"many"}));
    for (int i = 0; i < kEach; ++i) {
      for (int m = 0; m < kMappings; ++m) {
        Mapping* one = t.child(t.entry(many, key(name_of_key(m))));
        ASSERT_TRUE(t.erase(t.entry(one, key(name_of_key(i)))));
      }
    }
  }));
}

TEST_F(FullState, DeletesTakeNoMemoryFromTheSystem) {
  back_reserve();
  fill(*session);
  const shm::Header& header = world.space().header();
  const std::uint64_t backed = header.backed_extents.load();
  const std::uint64_t used = header.used_extents.load();
  EXPECT_TRUE(erase(*session, 0, kDeletes));
  EXPECT_EQ(header.backed_extents.load(), backed);
  EXPECT_EQ(header.used_extents.load(), used) << "the reserve has not come back";
  EXPECT_EQ(reserve().warm, header.extent_count.load() - header.reserve_at.load());
}

TEST_F(FullState, MoreThanTheReserveHoldsIsAnErrorThatSaysWhatToDo) {
  fill(*session);
  Transaction t(*session);
  t.begin(Isolation::kSerializable);
  for (int i = 0; i < kRows; ++i) t.erase(t.entry(rows(t), key(name_of_key(i))));
  try {
    t.commit();
    ADD_FAILURE() << "there was room for it";
  } catch (const CapacityError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("delete in smaller transactions"), std::string::npos) << text;
  }
  EXPECT_EQ(count_rows(*session), static_cast<std::uint64_t>(kRows));
  for (int from = 0; from < kRows; from += kDeletes) EXPECT_TRUE(erase(*session, from, kDeletes));
  EXPECT_EQ(count_rows(*session), 0u);
}

TEST_F(FullState, AMappingIsClearedAsAWhole) {
  fill(*session);
  EXPECT_TRUE(commits(*session, [](Transaction& t) { t.clear(rows(t)); }));
  EXPECT_EQ(count_rows(*session), 0u);
  EXPECT_EQ(reserve().cells, 0u) << "the stock keeps cells for this";
}

TEST_F(FullState, AMappingIsDeletedAsAWhole) {
  fill(*session);
  auto newcomer = world.attach();
  EXPECT_TRUE(commits(*newcomer, [](Transaction& t) { t.erase(at(t, {"rows"})); }));
  EXPECT_EQ(reserve().cells, 0u) << "a delete needs no cell";
  world.reclaim_all();
  EXPECT_LT(world.space().header().key_count.load(), 10'000u);
}

TEST_F(FullState, AWorkerThatHasNoCellsClearsAMapping) {
  fill(*session);
  {
    auto newcomer = world.attach();
    EXPECT_TRUE(commits(*newcomer, [](Transaction& t) { t.clear(rows(t)); }));
  }
  EXPECT_EQ(count_rows(*session), 0u);
  const std::uint64_t cells = reserve().cells;
  EXPECT_LE(cells, 2u);
  // The next one finds what that one has left.
  commit(*session, [](Transaction& t) { t.put_int(t.entry(rows(t), key("again")), 1); });
  auto newcomer = world.attach();
  EXPECT_TRUE(commits(*newcomer, [](Transaction& t) { t.clear(rows(t)); }));
  EXPECT_EQ(reserve().cells, cells);
}

TEST_F(FullState, CellsTakeNoMoreThanTheirPartOfTheReserve) {
  fill(*session);
  // Each takes a node and a record for itself and stays.
  std::vector<std::unique_ptr<Session>> newcomers;
  int cleared = 0;
  for (int i = 0; i < kSmallMappings; ++i) {
    newcomers.push_back(world.attach());
    cleared += commits(*newcomers.back(),
                       [&](Transaction& t) { t.clear(t.child(at(t, {"m" + std::to_string(i)}))); });
  }
  const shm::Header& header = world.space().header();
  const std::uint64_t part = (header.extent_count.load() - header.reserve_at.load()) / 4;
  EXPECT_EQ(reserve().cells, part);
  EXPECT_EQ(cleared, static_cast<int>(part / 2));
  EXPECT_TRUE(erase(*newcomers.back(), 0, kDeletes)) << "no room is left for a message";
}

TEST_F(FullState, DeletesWaitForWhatAnotherHasOfTheReserve) {
  fill(*session);
  const std::uint32_t slot = world.admit(getpid());
  shm::Arbiter arbiter(world.space(), slot);
  worker::Stock stock(world.space(), arbiter, [&arbiter](worker::OnSignal) {
    while (!arbiter.lock_for(1'000'000'000)) {
    }
  });
  // What is left of it will do for the message, but not for the journal.
  const shm::Header& header = world.space().header();
  const std::uint64_t much =
      (header.extent_count.load() - header.reserve_at.load() - 10) * shm::kExtentBytes;
  const shm::Link lent = stock.take_run(much, worker::Use::kFreeing);
  EXPECT_TRUE(reserve().lent);
  // The first wait is for the reserve. Later ones may be for the lock: this thread takes it then.
  struct Hook : worker::WaitHook {
    void* before() noexcept override {
      if (waits == 0) {
        EXPECT_FALSE(lent()) << "it waits with something in hand";
      }
      ++waits;
      waits.notify_one();
      return nullptr;
    }
    void after(void*, bool) override {}

    std::function<bool()> lent;
    std::atomic<int> waits{0};
  } hook;
  hook.lent = [&] { return reserve(slot).lent; };
  std::atomic<int>& waits = hook.waits;
  session->set_wait_hook(&hook);
  const auto erase_some = [&](int from) {
    Transaction t(*session);
    t.begin(Isolation::kSerializable);
    for (int i = from; i < from + kDeletes; ++i) t.erase(t.entry(rows(t), key(name_of_key(i))));
    EXPECT_EQ(t.commit().status, CommitResult::Status::kCommitted);
    EXPECT_GT(waits, 0) << "it found room elsewhere: the test tests nothing";
    if (waits == 0) hook.before();
  };
  std::thread deleter([&] { erase_some(0); });
  waits.wait(0);
  EXPECT_EQ(count_rows(*session), static_cast<std::uint64_t>(kRows));
  stock.give_back(lent, shm::kRunClass);
  deleter.join();
  // Nor is it lost with a process that dies while it has it.
  static_cast<void>(stock.take_run(much, worker::Use::kFreeing));
  waits = 0;
  std::thread next([&] { erase_some(kDeletes); });
  waits.wait(0);
  world.evict(slot);
  next.join();
  session->set_wait_hook(nullptr);
}

TEST_F(FullState, DeletesTogetherWithAWrite) {
  fill(*session);
  // No more than any other write: what the process has in stock will do, the reserve does not.
  EXPECT_FALSE(commits(*session, [](Transaction& t) {
    for (int i = 0; i < kDeletes; ++i) t.erase(t.entry(rows(t), key(name_of_key(i))));
    t.put_int(at(t, {"fill0"}), 1);
  }));
  EXPECT_EQ(count_rows(*session), static_cast<std::uint64_t>(kRows));
  // A delete first, and there is room for it.
  EXPECT_TRUE(erase(*session, 0, 1000));
  world.reclaim_all();
  EXPECT_TRUE(commits(*session, [](Transaction& t) {
    for (int i = 1000; i < 2000; ++i) t.erase(t.entry(rows(t), key(name_of_key(i))));
    t.put_int(at(t, {"fill0"}), 1);
  }));
  EXPECT_EQ(count_rows(*session), static_cast<std::uint64_t>(kRows - 2000));
}

}  // namespace
}  // namespace theus::testing
