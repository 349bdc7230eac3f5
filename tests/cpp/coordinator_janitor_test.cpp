// What the coordinator does for the living: memory that nobody needs any more comes back by itself.
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/cpp/coordinator_harness.h"
#include "worker/session.h"
#include "worker/transaction.h"

namespace theus::testing {
namespace {

class CoordinatorJanitor : public CoordinatorTest {
 protected:
  void SetUp() override {
    CoordinatorTest::SetUp();
    start("shop");
    session_ = std::make_unique<worker::Session>(worker::attach("shop"));
  }
  void TearDown() override {
    session_.reset();
    CoordinatorTest::TearDown();
  }
  void commit(const std::function<void(worker::Transaction&)>& body) {
    worker::Transaction transaction(*session_);
    transaction.begin(worker::Isolation::kSerializable);
    body(transaction);
    ASSERT_EQ(transaction.commit().status, worker::CommitResult::Status::kCommitted);
  }
  bool all_reclaimed() const {
    const shm::Header& header = session_->space().header();
    return header.dead_count.load() == 0 && header.retained_count.load() == 0;
  }

  std::unique_ptr<worker::Session> session_;
};

TEST_F(CoordinatorJanitor, ClearsAwayADeletedMapping) {
  constexpr int kKeys = 3000;
  commit([](worker::Transaction& transaction) {
    worker::Mapping* rows =
        transaction.put_mapping(transaction.entry(transaction.root(), shm::KeyView("rows")));
    for (int i = 0; i < kKeys; ++i) {
      const std::string key = "row" + std::to_string(i);
      transaction.put_int(transaction.entry(rows, shm::KeyView(key)), i);
    }
  });
  commit([](worker::Transaction& transaction) {
    EXPECT_TRUE(transaction.erase(transaction.entry(transaction.root(), shm::KeyView("rows"))));
  });
  // Nothing is committed any more: whatever is done now the coordinator does.
  EXPECT_TRUE(eventually([&] { return all_reclaimed(); }));
}

TEST_F(CoordinatorJanitor, ClearsAwayWhatWasPinnedOnceThePinHasGone) {
  const auto put = [&](int value) {
    commit([value](worker::Transaction& transaction) {
      transaction.put_int(transaction.entry(transaction.root(), shm::KeyView("hot")), value);
    });
  };
  put(0);
  {
    const worker::Snapshot pin(*session_);
    constexpr int kVersions = 50;
    for (int i = 1; i <= kVersions; ++i) {
      put(i);
    }
    EXPECT_FALSE(all_reclaimed());
  }
  EXPECT_TRUE(eventually([&] { return all_reclaimed(); }));
}

}  // namespace
}  // namespace theus::testing
