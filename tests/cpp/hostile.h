// A worker that writes its submissions by hand: honest ones of any shape, and others.
#pragma once

#include <capnp/message.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string_view>
#include <vector>

#include "shm/delta.capnp.h"
#include "shm/index.h"
#include "shm/versions.h"
#include "tests/cpp/harness.h"
#include "worker/stock.h"

namespace theus::testing {

class Hostile {
 public:
  explicit Hostile(World& world)
      : world_(world),
        slot_(world.admit(getpid())),
        arbiter_(world.space(), slot_),
        stock_(world.space(), arbiter_, [this](worker::OnSignal) { lock(); }) {}
  ~Hostile() { world_.evict(slot_); }
  Hostile(const Hostile&) = delete;
  Hostile& operator=(const Hostile&) = delete;

  worker::Stock& stock() { return stock_; }
  std::uint64_t clock() const { return world_.space().header().clock.load(); }
  std::uint64_t next_sequence() const { return world_.space().desk(slot_).request.load() + 1; }

  shm::Link record(std::int64_t value) {
    const shm::Link link = stock_.take(shm::kSmallRecord);
    auto& to = *world_.space().writable_cell<shm::VersionRecord>(link.unit());
    to.version.store(0);
    to.died_at.store(0);
    to.prev.store(0);
    to.shape.store(shm::RecordShape{0, shm::ValueKind::kInt, 0}.pack());
    to.value[0].store(static_cast<std::uint64_t>(value));
    return link;
  }
  shm::Link key(std::uint64_t node, std::string_view text) {
    const shm::Link link = stock_.take(shm::kKey64);
    auto& to = *world_.space().writable_cell<shm::KeyRecord>(link.unit());
    const std::uint64_t seed = world_.space().header().hash_seed.load();
    to.sort.store(shm::key_sort(shm::hash_key(seed, node, testing::key(text))));
    to.node.store(node);
    to.next.store(0);
    to.head.store(0);
    const auto size = static_cast<std::uint16_t>(text.size());
    to.shape.store(shm::KeyShape{size, size, false}.pack());
    std::uint64_t words[2] = {0, 0};
    text.copy(reinterpret_cast<char*>(words), sizeof(words));
    for (int i = 0; i < 2; ++i) to.key[i].store(words[i]);
    return link;
  }
  shm::Link chunk() {
    const shm::Link link = stock_.take(shm::kChunk256);
    auto& to = *world_.space().writable_cell<shm::OrderChunk>(link.unit());
    to.next.store(0);
    to.shape.store(shm::ChunkShape{29, 0, 0}.pack());
    return link;
  }
  // A new mapping with one entry.
  shm::Link node(std::string_view name) {
    const shm::Link link = stock_.take(shm::kNode), page = chunk();
    auto& to = *world_.space().writable_cell<shm::NodeRecord>(link.unit());
    for (shm::Word* word : {&to.parent, &to.structure_version, &to.below_version, &to.unlinked}) {
      word->store(0);
    }
    to.count.store(1);
    to.first_chunk.store(page.raw);
    to.last_chunk.store(0);
    to.dead_next.store(0);
    const shm::Link entry = key(link.raw, name);
    world_.space().writable_cell<shm::KeyRecord>(entry.unit())->head.store(record(5).raw);
    auto& places = *world_.space().writable_cell<shm::OrderChunk>(page.unit());
    places.place[0].store(entry.raw);
    places.shape.store(shm::ChunkShape{29, 1, 1}.pack());
    return link;
  }
  shm::Link record_of_node(shm::Link node) {
    const shm::Link link = record(0);
    auto& to = *world_.space().writable_cell<shm::VersionRecord>(link.unit());
    to.shape.store(shm::RecordShape{0, shm::ValueKind::kNode, 0}.pack());
    to.value[0].store(node.raw);
    return link;
  }

  shm::Outcome submit(const std::vector<std::uint64_t>& words, shm::Link run = shm::Link()) {
    shm::Desk& desk = world_.space().desk(slot_);
    std::memset(desk.submission, 0, shm::kSubmissionBytes);
    const std::size_t bytes = std::min<std::size_t>(words.size() * 8, shm::kSubmissionBytes);
    if (bytes > 0) std::memcpy(desk.submission, words.data(), bytes);
    return request(words.size(), run);
  }
  shm::Outcome request(std::uint64_t words, shm::Link run) {
    shm::Desk& desk = world_.space().desk(slot_);
    desk.submission_link.store(run.raw);
    desk.submission_words.store(words);
    const std::uint64_t sequence = next_sequence();
    desk.request.store(sequence);
    lock();
    arbiter_.drain(16);
    arbiter_.unlock();
    const std::uint64_t answer = world_.space().header().slots[slot_].answer.load();
    EXPECT_EQ(answer >> 8, sequence) << "not answered";
    return static_cast<shm::Outcome>(answer & 0xFF);
  }
  // A message, as words.
  std::vector<std::uint64_t> message(const std::function<void(shm::wire::Delta::Builder)>& fill) {
    capnp::MallocMessageBuilder builder(4096, capnp::AllocationStrategy::FIXED_SIZE);
    auto delta = builder.initRoot<shm::wire::Delta>();
    delta.setSequence(next_sequence());
    delta.setSnapshot(clock());
    fill(delta);
    const auto segment = builder.getSegmentsForOutput()[0];
    std::vector<std::uint64_t> words(segment.size());
    std::memcpy(words.data(), segment.begin(), segment.size() * 8);
    return words;
  }
  shm::Outcome submit(const std::function<void(shm::wire::Delta::Builder)>& fill) {
    return submit(message(fill));
  }

 private:
  void lock() {
    while (!arbiter_.lock_for(1'000'000'000)) {
    }
  }
  World& world_;
  std::uint32_t slot_;
  shm::Arbiter arbiter_;
  worker::Stock stock_;
};

}  // namespace theus::testing
