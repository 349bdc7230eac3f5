// Validated read sets that no honest worker sends: answered, and without a long hold of the lock.
#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <vector>

#include "shm/read_set.h"
#include "tests/cpp/audit.h"
#include "tests/cpp/hostile.h"

namespace theus::testing {
namespace {

using shm::Link;
using shm::Outcome;
using worker::Session;
using worker::Snapshot;
using worker::Transaction;
namespace wire = shm::wire;

class ShmReadSetInput : public ::testing::Test {
 protected:
  void SetUp() override {
    commit(*session, [](Transaction& t) {
      auto* m = t.put_mapping(at(t, {"m"}));
      t.put_int(t.entry(m, key("a")), 1);
      t.put_int(t.entry(m, key("b")), 2);
    });
    Snapshot snapshot(*session);
    node = read(snapshot, {"m"}).node;
    a = link_of("a");
    before = session->version();
    // What the ring has about "m" after `before`: a, b, z, and the node.
    commit(*session, [](Transaction& t) {
      t.put_int(at(t, {"m", "a"}), 3);
      t.put_int(at(t, {"m", "b"}), 3);
      t.put_int(at(t, {"m", "z"}), 3);
    });
    mad = std::make_unique<Hostile>(world);
  }
  void TearDown() override {
    mad.reset();
    commit(
        *session,
        [](Transaction& t) {
          t.put_int(at(t, {"m", "b"}), 4);
        },
        1);
    session.reset();
    world.reclaim_all();
    const Audit result = audit(world, true);
    EXPECT_TRUE(result.faults.empty()) << result.text();
  }
  std::uint64_t link_of(std::string_view name) {
    const std::uint64_t seed = world.space().header().hash_seed.load();
    return shm::find_key(world.space(), node, key(name), shm::hash_key(seed, node, key(name)))
        .link.raw;
  }
  // A delta that writes "a", with a read set of the test's making.
  Outcome submit(const std::function<void(wire::Delta::Builder)>& fill) {
    return mad->submit([&](wire::Delta::Builder delta) {
      delta.setValidatedAt(before);
      delta.setSnapshot(before);
      fill(delta);
      auto operation = delta.initOperations(1)[0];
      operation.setKind(wire::Operation::Kind::INSERT);
      operation.setNode(node);
      operation.setNewKey(mad->key(node, "mine" + std::to_string(++made)).raw);
      operation.setRecord(mad->record(1).raw);
      operation.setSpareChunk(mad->chunk().raw);
    });
  }
  static void check(wire::Check::Builder to, std::uint64_t subject, wire::Check::Kind kind,
                    std::uint64_t seen = 0) {
    to.setSubject(subject);
    to.setKind(kind);
    to.setSeen(seen);
  }
  void absence(wire::Absence::Builder to, std::string_view name) const {
    to.setNode(node);
    to.setKey(kj::arrayPtr(reinterpret_cast<const kj::byte*>(name.data()), name.size()));
    to.setCompared(static_cast<std::uint16_t>(name.size()));
  }
  std::uint64_t sort_of(std::string_view name) {
    return shm::key_sort(shm::hash_key(world.space().header().hash_seed.load(), node, key(name)));
  }

  World world{shm::kMinCapacityBytes};
  std::unique_ptr<Session> session = world.attach();
  std::unique_ptr<Hostile> mad;
  std::uint64_t node = 0, a = 0, before = 0;
  int made = 0;
};

TEST_F(ShmReadSetInput, AnHonestOneIsDecided) {
  EXPECT_EQ(submit([&](wire::Delta::Builder delta) {
              check(delta.initValidated(1)[0], a, wire::Check::Kind::PRESENT);
            }),
            Outcome::kCommitted);
  EXPECT_EQ(submit([&](wire::Delta::Builder delta) {
              check(delta.initValidated(1)[0], a, wire::Check::Kind::KEY, before);
            }),
            Outcome::kConflict);
  EXPECT_EQ(submit([&](wire::Delta::Builder delta) {
              absence(delta.initValidatedAbsences(1)[0], "z");
              delta.initAbsenceSorts(1).set(0, sort_of("z"));
            }),
            Outcome::kConflict);
  EXPECT_EQ(submit([&](wire::Delta::Builder delta) {
              absence(delta.initValidatedAbsences(1)[0], "y");
              delta.initAbsenceSorts(1).set(0, sort_of("y"));
            }),
            Outcome::kCommitted);
}

TEST_F(ShmReadSetInput, ValidatedAtSomeOtherTime) {
  for (const std::uint64_t when : {before - 1, mad->clock() + 1, ~std::uint64_t{0}}) {
    EXPECT_EQ(submit([&](wire::Delta::Builder delta) {
                delta.setValidatedAt(when);
                check(delta.initValidated(1)[0], a, wire::Check::Kind::PRESENT);
              }),
              Outcome::kBadDelta)
        << when;
  }
}

TEST_F(ShmReadSetInput, ListsThatDoNotBelongTogether) {
  for (const unsigned sorts : {0u, 1u, 3u}) {
    EXPECT_EQ(submit([&](wire::Delta::Builder delta) {
                auto absences = delta.initValidatedAbsences(2);
                for (const auto each : absences) absence(each, "y");
                auto numbers = delta.initAbsenceSorts(sorts);
                for (unsigned i = 0; i < sorts; ++i) numbers.set(i, sort_of("z"));
              }),
              Outcome::kBadDelta)
        << sorts;
  }
}

TEST_F(ShmReadSetInput, ManyAlikeAreRefused) {
  // Each entry of the ring would have all of them made again.
  EXPECT_EQ(submit([&](wire::Delta::Builder delta) {
              auto checks = delta.initValidated(shm::kAlikeMax);
              for (const auto each : checks) check(each, a, wire::Check::Kind::PRESENT);
            }),
            Outcome::kCommitted);
  EXPECT_EQ(submit([&](wire::Delta::Builder delta) {
              auto checks = delta.initValidated(shm::kAlikeMax + 1);
              for (const auto each : checks) check(each, a, wire::Check::Kind::PRESENT);
            }),
            Outcome::kBadDelta);
  EXPECT_EQ(submit([&](wire::Delta::Builder delta) {
              auto absences = delta.initValidatedAbsences(shm::kAlikeMax + 1);
              auto sorts = delta.initAbsenceSorts(absences.size());
              for (unsigned i = 0; i < sorts.size(); ++i) {
                absence(absences[i], "y");
                sorts.set(i, sort_of("z"));
              }
            }),
            Outcome::kBadDelta);
}

TEST_F(ShmReadSetInput, WildSubjects) {
  std::mt19937_64 random(5);
  std::vector<std::uint64_t> wild = {
      0, 1, node, node + (1ull << 32), a + (1ull << 32), Link::marker(1).raw, ~std::uint64_t{0}};
  for (int i = 0; i < 200; ++i) wild.push_back(random());
  for (const std::uint64_t subject : wild) {
    for (int kind = 0; kind < 4; ++kind) {
      const Outcome outcome = submit([&](wire::Delta::Builder delta) {
        auto checks = delta.initValidated(3);  // in any order
        check(checks[0], subject, static_cast<wire::Check::Kind>(kind), random());
        check(checks[1], a, static_cast<wire::Check::Kind>(random() % 4), random());
        check(checks[2], random(), static_cast<wire::Check::Kind>(kind));
        absence(delta.initValidatedAbsences(1)[0], "z");
        delta.initAbsenceSorts(1).set(0, random() % 2 == 0 ? sort_of("z") : random());
      });
      // Again: those that were committed have made the way through the ring long.
      ASSERT_TRUE(outcome == Outcome::kConflict || outcome == Outcome::kCommitted ||
                  outcome == Outcome::kBadDelta || outcome == Outcome::kValidateAgain);
    }
  }
}

}  // namespace
}  // namespace theus::testing
