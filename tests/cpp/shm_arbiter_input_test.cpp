// Submissions of a worker that has gone mad: whatever stands in them, they are answered, nothing is
// damaged, and everybody else goes on.
#include <capnp/message.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "shm/delta.capnp.h"
#include "shm/extents.h"
#include "shm/index.h"
#include "shm/versions.h"
#include "tests/cpp/audit.h"
#include "tests/cpp/harness.h"
#include "tests/cpp/hostile.h"

namespace theus::testing {
namespace {

using shm::Link;
using shm::Outcome;
using worker::Session;
using worker::Snapshot;
using worker::Transaction;
namespace wire = shm::wire;

class ShmArbiterInput : public ::testing::Test {
 protected:
  void SetUp() override {
    commit(*session, [](Transaction& t) {
      auto* m = t.put_mapping(at(t, {"m"}));
      t.put_int(t.entry(m, key("a")), 1);
      t.put_int(t.entry(m, key("b")), 2);
      t.put_str(at(t, {"text"}), std::string(100, 'x'));
      t.put_int(at(t, {"n"}), 0);
    });
    root = world.space().header().root.load();
    Snapshot snapshot(*session);
    m_node = read(snapshot, {"m"}).node;
    a_key = key_link(m_node, "a").raw;
    b_key = key_link(m_node, "b").raw;
    m_key = key_link(root, "m").raw;
  }
  void TearDown() override {
    others_go_on();
    mad.reset();
    session.reset();
    world.reclaim_all();
    const Audit result = audit(world, true);
    EXPECT_TRUE(result.faults.empty()) << result.text();
  }
  Link key_link(std::uint64_t node, std::string_view text) {
    const std::uint64_t seed = world.space().header().hash_seed.load();
    return shm::find_key(world.space(), node, key(text), shm::hash_key(seed, node, key(text))).link;
  }
  void others_go_on() {
    commit(*session, [](Transaction& t) {
      Entry* n = at(t, {"n"});
      t.put_int(n, t.read(n).integer + 1);
    }, 1);
    Snapshot snapshot(*session);
    EXPECT_EQ(read(snapshot, {"n"}).integer, ++rounds);
  }
  void clean() {
    const Audit result = audit(world, false);
    ASSERT_TRUE(result.faults.empty()) << result.text();
  }
  using Entry = worker::Entry;
  static void put(wire::Operation::Builder to, std::uint64_t node, std::uint64_t key, Link record) {
    to.setKind(wire::Operation::Kind::PUT);
    to.setNode(node);
    to.setKey(key);
    to.setRecord(record.raw);
  }
  static void insert(wire::Operation::Builder to, std::uint64_t node, Link key, Link record,
                     Link spare) {
    to.setKind(wire::Operation::Kind::INSERT);
    to.setNode(node);
    to.setNewKey(key.raw);
    to.setRecord(record.raw);
    to.setSpareChunk(spare.raw);
  }
  static bool refused(Outcome outcome) {
    return outcome == Outcome::kBadDelta || outcome == Outcome::kConflict;
  }

  World world{shm::kMinCapacityBytes};
  std::unique_ptr<Session> session = world.attach();
  std::unique_ptr<Hostile> mad = std::make_unique<Hostile>(world);
  std::uint64_t root = 0, m_node = 0, a_key = 0, b_key = 0, m_key = 0;
  std::int64_t rounds = 0;
};

TEST_F(ShmArbiterInput, AnHonestDeltaOfThisKindIsCommitted) {
  // Otherwise the tests below would show nothing.
  EXPECT_EQ(mad->submit([&](wire::Delta::Builder delta) {
    auto ops = delta.initOperations(3);
    put(ops[0], m_node, a_key, mad->record(10));
    insert(ops[1], m_node, mad->key(m_node, "new"), mad->record(11), mad->chunk());
    insert(ops[2], root, mad->key(root, "sub"), mad->record_of_node(mad->node("x")), mad->chunk());
  }), Outcome::kCommitted);
  Snapshot snapshot(*session);
  EXPECT_EQ(read(snapshot, {"m", "a"}).integer, 10);
  EXPECT_EQ(read(snapshot, {"m", "new"}).integer, 11);
  EXPECT_EQ(read(snapshot, {"sub", "x"}).integer, 5);
}

TEST_F(ShmArbiterInput, Garbage) {
  std::mt19937_64 random(4711);
  for (int i = 0; i < 3000; ++i) {
    std::vector<std::uint64_t> words(random() % 64);
    for (std::uint64_t& word : words) {
      word = random();
      if (i % 2 == 0) word &= 0xFFFF'0000'00FFull;  // looks more like pointers of a message
    }
    // An empty root is a delta of sequence 0, which nobody has asked for.
    ASSERT_TRUE(refused(mad->submit(words))) << i;
  }
}

TEST_F(ShmArbiterInput, WildLengthsAndPlaces) {
  const auto words = mad->message([](wire::Delta::Builder) {});
  for (const std::uint64_t length :
       {std::uint64_t{0}, shm::kSubmissionBytes / 8 + 1, ~std::uint64_t{0},
        std::uint64_t{1} << 61}) {
    EXPECT_EQ(mad->request(length, Link()), Outcome::kBadDelta) << length;
  }
  const Link cell = mad->stock().take(shm::kSmallRecord);
  for (const Link run : {Link(1, 0), Link(1, 0xFFFFFFFF), Link::marker(0), Link(root), cell}) {
    EXPECT_EQ(mad->submit(words, run), Outcome::kBadDelta) << run.raw;
  }
}

TEST_F(ShmArbiterInput, TruncatedAndFlipped) {
  const auto fill = [&](wire::Delta::Builder delta) {
    auto checks = delta.initChecks(1);
    checks[0].setSubject(b_key);
    checks[0].setKind(wire::Check::Kind::PRESENT);
    auto absences = delta.initAbsences(1);
    absences[0].setNode(m_node);
    absences[0].setKey(kj::arrayPtr(reinterpret_cast<const kj::byte*>("zz"), 2));
    absences[0].setCompared(2);
    put(delta.initOperations(1)[0], m_node, a_key, mad->record(10));
  };
  const auto whole = mad->message(fill);
  for (std::size_t length = 1; length < whole.size(); ++length) {
    auto words = mad->message(fill);
    words.resize(length);
    EXPECT_TRUE(refused(mad->submit(words))) << length;
  }
  std::mt19937_64 random(99);
  for (int i = 0; i < 2000; ++i) {
    auto words = mad->message(fill);
    words[random() % words.size()] ^= 1ull << (random() % 64);
    // A bit that does not matter may be the one.
    const Outcome outcome = mad->submit(words);
    ASSERT_TRUE(refused(outcome) || outcome == Outcome::kCommitted) << i;
  }
  clean();
}

TEST_F(ShmArbiterInput, WildLinksInEveryField) {
  // Numbers that are nothing, and links of things that are there but of another kind or owner.
  Hostile neighbour(world);
  std::mt19937_64 random(7);
  std::vector<std::uint64_t> wild = {
      1, Link(1, 0xFFFFFFFFu).raw, ~std::uint64_t{0}, Link::marker(3).raw, root, m_node, a_key,
      m_key, root + (1ull << 32), a_key + (1ull << 32), a_key + 1, a_key + 4,
      world.space().cell<shm::NodeRecord>(Link(root))->first_chunk.load(),
      world.space().cell<shm::KeyRecord>(Link(a_key))->head.load(),
      neighbour.record(1).raw, neighbour.key(m_node, "q").raw, neighbour.chunk().raw,
      neighbour.stock().take_run(100'000).raw};
  for (int i = 0; i < 20; ++i) wild.push_back(random());
  constexpr int kFields = 12;
  for (int field = 0; field < kFields; ++field) {
    // Our own cells, one of each kind, go through every field, too.
    for (std::size_t w = 0; w < wild.size() + 5; ++w) {
      Link own[] = {mad->record(1), mad->key(m_node, "own"), mad->chunk(), mad->node("y"),
                    mad->stock().take(shm::kFirstBlock)};
      if (w >= wild.size()) {
        // An unlinked cell may say anything of itself.
        auto* words = world.space().writable_cell<shm::Word>(own[w - wild.size()].unit());
        for (int i = 2; i < 6; ++i) words[i].store(0xFFFF'FFFF'FFFF'FFF0ull);
      }
      const std::uint64_t value = w < wild.size() ? wild[w] : own[w - wild.size()].raw;
      const std::uint64_t before = mad->clock();
      const Outcome outcome = mad->submit([&](wire::Delta::Builder delta) {
        auto checks = delta.initChecks(4);
        for (unsigned i = 0; i < 4; ++i) {
          checks[i].setKind(static_cast<wire::Check::Kind>(i));
          checks[i].setSubject(i == 0 || i == 3 ? b_key : m_node);
        }
        checks[0].setSeen(0);
        auto absences = delta.initAbsences(1);
        absences[0].setNode(field == 4 ? value : m_node);
        absences[0].setKey(kj::arrayPtr(reinterpret_cast<const kj::byte*>("zz"), 2));
        absences[0].setCompared(2);
        auto ops = delta.initOperations(2);
        insert(ops[0], m_node, mad->key(m_node, "w"), mad->record(3), mad->chunk());
        put(ops[1], m_node, a_key, mad->record(10));
        ops[1].setSpareChunk(mad->chunk().raw);
        if (field < 4) checks[static_cast<unsigned>(field)].setSubject(value);
        if (field == 5) ops[0].setNode(value);
        if (field == 6) ops[0].setNewKey(value);
        if (field == 7) ops[0].setRecord(value);
        if (field == 8) ops[0].setSpareChunk(value);
        if (field == 9) ops[1].setKey(value);
        if (field == 10) ops[1].setRecord(value);
        if (field == 11) ops[1].setNode(value);
      });
      const bool may_pass = field <= 4 || field == 8 || value == a_key || value == b_key ||
                              value == m_node;
      ASSERT_TRUE(refused(outcome) || (may_pass && outcome == Outcome::kCommitted))
          << "field " << field << ", value " << w << ": " << static_cast<int>(outcome);
      if (outcome == Outcome::kCommitted) {
        // Take "w" away again, so that the next one inserts it.
        commit(*session, [](Transaction& t) { t.erase(at(t, {"m", "w"})); });
      } else {
        ASSERT_EQ(mad->clock(), before);
      }
    }
    clean();
    others_go_on();
  }
}

TEST_F(ShmArbiterInput, WildLinksInsideOfNewSubtrees) {
  std::mt19937_64 random(8);
  const auto hit = [&](int place, std::uint64_t value) {
    const Link node = mad->node("x");
    const Link record = mad->record_of_node(node);
    auto& home = *world.space().writable_cell<shm::NodeRecord>(node.unit());
    auto& chunk =
        *world.space().writable_cell<shm::OrderChunk>(Link(home.first_chunk.load()).unit());
    auto& entry = *world.space().writable_cell<shm::KeyRecord>(Link(chunk.place[0].load()).unit());
    auto& leaf =
        *world.space().writable_cell<shm::VersionRecord>(Link(entry.head.load()).unit());
    const auto half = static_cast<std::uint32_t>(value);
    switch (place) {
      case 0: home.first_chunk.store(value); break;
      case 1: chunk.next.store(value); break;
      case 2: chunk.place[0].store(value); break;
      case 3: chunk.shape.store(half); break;
      case 4: entry.head.store(value); break;
      case 5: entry.node.store(value); break;
      case 6: entry.sort.store(value); break;
      case 7: entry.shape.store(half); break;
      case 8: leaf.shape.store(half); break;
      case 9:
        leaf.shape.store(shm::RecordShape{0, shm::ValueKind::kBlock, 0}.pack());
        leaf.value[0].store(value);
        break;
      case 10:
        leaf.shape.store(shm::RecordShape{0, shm::ValueKind::kNode, 0}.pack());
        leaf.value[0].store(value == 2 ? node.raw : value);  // or in a circle
        break;
      case 11: home.last_chunk.store(half); home.dead_next.store(half); break;
      default: entry.next.store(value); entry.retained_next.store(half); break;
    }
    const std::string name = "t" + std::to_string(place) + "-" + std::to_string(value % 9973);
    return mad->submit([&](wire::Delta::Builder delta) {
      insert(delta.initOperations(1)[0], root, mad->key(root, name), record, mad->chunk());
    });
  };
  for (int place = 0; place <= 12; ++place) {
    for (int i = 0; i < 12; ++i) {
      const std::uint64_t values[] = {2, root, m_node, a_key, 0xFFFFFFFF, ~std::uint64_t{0}};
      const std::uint64_t value = i < 6 ? values[i] : random();
      const Outcome outcome = hit(place, value);
      ASSERT_TRUE(refused(outcome) || outcome == Outcome::kCommitted) << place << " " << i;
      // What decides where readers go is never believed; the rest is the arbiter's to write.
      if (place == 2 || place == 4 || place == 5 || place == 6 || place == 9 || place == 10) {
        ASSERT_TRUE(refused(outcome)) << place << " " << value;
      }
    }
    clean();
  }
  // Whatever was let in can be read.
  Snapshot snapshot(*session);
  for (const std::string& name : keys(snapshot, {})) read(snapshot, {name, "x"});
}

TEST_F(ShmArbiterInput, AJournalRegionThatIsNotOurs) {
  Hostile neighbour(world);
  commit(*session, [](Transaction& t) { t.put_bytes(at(t, {"big"}), std::string(99'999, 'b')); });
  Snapshot snapshot(*session);
  const std::uint64_t published = read(snapshot, {"big"}).block;
  for (const std::uint64_t region :
       {neighbour.stock().take_run(100'000).raw, published, mad->record(1).raw, root, a_key,
        Link(1, 3).raw, Link(1, 0xFFFFFFFF).raw, ~std::uint64_t{0}}) {
    EXPECT_TRUE(refused(mad->submit([&](wire::Delta::Builder delta) {
      delta.setJournalRegion(region);
      put(delta.initOperations(1)[0], m_node, a_key, mad->record(10));
    }))) << region;
  }
  EXPECT_EQ(read(snapshot, {"big"}).bytes(), std::string(99'999, 'b'));
  const Link own = mad->stock().take_run(100'000);
  EXPECT_EQ(mad->submit([&](wire::Delta::Builder delta) {
    delta.setJournalRegion(own.raw);
    put(delta.initOperations(1)[0], m_node, a_key, mad->record(10));
  }), Outcome::kCommitted);
}

TEST_F(ShmArbiterInput, OneCellTwice) {
  const Link record = mad->record(10);
  EXPECT_TRUE(refused(mad->submit([&](wire::Delta::Builder delta) {
    auto ops = delta.initOperations(2);
    put(ops[0], m_node, a_key, record);
    put(ops[1], m_node, b_key, record);
  })));
  const Link new_key = mad->key(m_node, "twice");
  EXPECT_TRUE(refused(mad->submit([&](wire::Delta::Builder delta) {
    auto ops = delta.initOperations(2);
    insert(ops[0], m_node, new_key, mad->record(1), mad->chunk());
    insert(ops[1], m_node, new_key, mad->record(2), mad->chunk());
  })));
  const Link node = mad->node("x");
  EXPECT_TRUE(refused(mad->submit([&](wire::Delta::Builder delta) {
    auto ops = delta.initOperations(2);
    put(ops[0], m_node, a_key, mad->record_of_node(node));
    put(ops[1], m_node, b_key, mad->record_of_node(node));
  })));
  clean();
  Snapshot snapshot(*session);
  EXPECT_EQ(read(snapshot, {"m", "a"}).integer, 1) << "half of a delta was done";
}

TEST_F(ShmArbiterInput, OneOperationTwice) {
  EXPECT_EQ(mad->submit([&](wire::Delta::Builder delta) {
    auto ops = delta.initOperations(2);
    put(ops[0], m_node, a_key, mad->record(1));
    put(ops[1], m_node, a_key, mad->record(2));
  }), Outcome::kConflict);
  EXPECT_EQ(mad->submit([&](wire::Delta::Builder delta) {
    auto deletes = delta.initDeletes(2);
    deletes.set(0, a_key);
    deletes.set(1, a_key);
  }),
            Outcome::kConflict);
  EXPECT_TRUE(refused(mad->submit([&](wire::Delta::Builder delta) {
    auto ops = delta.initOperations(2);
    for (unsigned i = 0; i < 2; ++i) {
      insert(ops[i], m_node, mad->key(m_node, "same"), mad->record(i), mad->chunk());
    }
  })));
  clean();
  Snapshot snapshot(*session);
  EXPECT_EQ(keys(snapshot, {"m"}), (std::vector<std::string>{"a", "b"}));
}

TEST_F(ShmArbiterInput, FoldsThatMakeNoSense) {
  using Fill = std::function<void(wire::Operation::Builder)>;
  const auto outcome = [&](const Fill& fill) {
    return mad->submit([&](wire::Delta::Builder delta) {
      auto ops = delta.initOperations(1);
      put(ops[0], m_node, a_key, mad->record(1));
      fill(ops[0]);
    });
  };
  const auto add = wire::Operation::Fold::ADD;
  EXPECT_EQ(outcome([&](auto op) { op.setFold(add); }), Outcome::kCommitted);
  EXPECT_EQ(outcome([&](auto op) { op.setFold(static_cast<wire::Operation::Fold>(4)); }),
            Outcome::kBadDelta);
  EXPECT_EQ(outcome([&](auto op) { op.setFold(static_cast<wire::Operation::Fold>(0xFFFF)); }),
            Outcome::kBadDelta);
  EXPECT_EQ(outcome([&](auto op) { op.setBasis(mad->clock() + 1); }), Outcome::kBadDelta);
  EXPECT_EQ(outcome([&](auto op) { op.setBasis(~std::uint64_t{0}); }), Outcome::kBadDelta);
  // Not onto a mapping, and the record must be one of its own all the same.
  EXPECT_EQ(outcome([&](auto op) {
    op.setNode(root);
    op.setKey(m_key);
    op.setFold(add);
  }), Outcome::kConflict);
  EXPECT_EQ(outcome([&](auto op) {
    op.setRecord(a_key);
    op.setFold(add);
  }), Outcome::kBadDelta);
  EXPECT_EQ(mad->submit([&](wire::Delta::Builder delta) {
    auto ops = delta.initOperations(2);
    for (auto op : ops) {
      put(op, m_node, a_key, mad->record(1));
      op.setFold(add);
    }
  }), Outcome::kBadDelta) << "two on one key";
  others_go_on();
  clean();
}

TEST_F(ShmArbiterInput, DeletesOfWhatIsNoKey) {
  const Link key(a_key);
  for (const std::uint64_t wild :
       {std::uint64_t{0}, ~std::uint64_t{0}, std::uint64_t{m_node},
        Link(key.generation(), key.unit() + 1).raw, Link(key.generation(), 0xFFFFFFFFu).raw}) {
    EXPECT_TRUE(refused(mad->submit([&](wire::Delta::Builder delta) {
      auto deletes = delta.initDeletes(2);
      deletes.set(0, b_key);
      deletes.set(1, wild);
    }))) << wild;
  }
  // Another generation: a key that has gone.
  EXPECT_EQ(mad->submit([&](wire::Delta::Builder delta) {
    delta.initDeletes(1).set(0, Link(key.generation() + 1, key.unit()).raw);
  }),
            Outcome::kConflict);
  // One that its worker has filled and nobody has linked.
  EXPECT_EQ(mad->submit([&](wire::Delta::Builder delta) {
    delta.initDeletes(1).set(0, mad->key(m_node, "new").raw);
  }),
            Outcome::kConflict);
  clean();
  Snapshot snapshot(*session);
  EXPECT_EQ(keys(snapshot, {"m"}), (std::vector<std::string>{"a", "b"}));
}

TEST_F(ShmArbiterInput, StaleAndFutureMessages) {
  const auto sends = [&](std::uint64_t sequence, std::uint64_t snapshot) {
    return mad->submit([&](wire::Delta::Builder delta) {
      delta.setSequence(sequence);
      delta.setSnapshot(snapshot);
      put(delta.initOperations(1)[0], m_node, a_key, mad->record(10));
    });
  };
  EXPECT_EQ(sends(mad->next_sequence() - 1, mad->clock()), Outcome::kBadDelta);
  EXPECT_EQ(sends(mad->next_sequence() + 1, mad->clock()), Outcome::kBadDelta);
  EXPECT_EQ(sends(mad->next_sequence(), mad->clock() + 1), Outcome::kBadDelta);
  const std::uint64_t before = mad->clock();
  commit(*session, [](Transaction& t) { t.put_int(at(t, {"m", "a"}), 3); });
  EXPECT_EQ(sends(mad->next_sequence(), before), Outcome::kConflict);
  EXPECT_EQ(sends(mad->next_sequence(), mad->clock()), Outcome::kCommitted);
}

}  // namespace
}  // namespace theus::testing
