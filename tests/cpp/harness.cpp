#include "tests/cpp/harness.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <fstream>

namespace theus::testing {

using worker::CommitResult;
using worker::Entry;
using worker::Isolation;
using worker::Mapping;
using worker::Session;
using worker::Snapshot;
using worker::Transaction;
using worker::Value;

std::string name_of(Kind kind) { return kind == Kind::kThreads ? "Threads" : "Processes"; }

World::World(std::uint64_t capacity_bytes)
    : fds_(shm::create_segments(capacity_bytes)),
      space_(std::make_shared<shm::Space>(fds_, shm::Access::kOneView)),
      arbiter_(std::make_unique<shm::Arbiter>(*space_, shm::kNoSlot)) {}

World::~World() = default;

std::uint32_t World::admit(pid_t pid) {
  while (!arbiter_->lock_for(1'000'000'000)) {
  }
  const auto slot = arbiter_->admit(static_cast<std::uint32_t>(pid), 0);
  arbiter_->unlock();
  if (!slot) throw std::runtime_error("no slot left");
  return *slot;
}

void World::evict(std::uint32_t slot) {
  for (bool done = false; !done;) {
    while (!arbiter_->lock_for(1'000'000'000)) {
    }
    done = arbiter_->evict(slot);
    arbiter_->unlock();
  }
}

void World::reclaim_all() {
  for (bool more = true; more;) {
    while (!arbiter_->lock_for(1'000'000'000)) {
    }
    more = arbiter_->reclaim(1000) || arbiter_->reclaim_found();
    arbiter_->unlock();
  }
}

worker::Attachment World::attachment(std::uint32_t slot) {
  worker::Attachment attachment;
  attachment.segments.data_writable = fcntl(fds_.data_writable, F_DUPFD_CLOEXEC, 3);
  attachment.segments.data_readable = fcntl(fds_.data_readable, F_DUPFD_CLOEXEC, 3);
  attachment.segments.desks = fcntl(fds_.desks, F_DUPFD_CLOEXEC, 3);
  attachment.slot = slot;
  attachment.name = "test";
  return attachment;
}

std::unique_ptr<Session> World::attach() {
  return std::make_unique<Session>(attachment(admit(getpid())), space_);
}

int wait_for(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

pid_t fork_worker(World& world, std::uint32_t slot, const std::function<void(Session&)>& body) {
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid != 0) return pid;
  int status = 1;
  try {
    Session session(world.attachment(slot));
    body(session);
    status = ::testing::Test::HasFailure() ? 1 : 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "worker %d: %s\n", getpid(), error.what());
  }
  std::fflush(nullptr);
  _exit(status);
}

void run_workers(World& world, Kind kind, int count,
                 const std::function<void(Session&, int)>& body) {
  if (kind == Kind::kThreads) {
    std::vector<std::thread> threads;
    std::vector<std::unique_ptr<Session>> sessions;
    for (int i = 0; i < count; ++i) {
      sessions.push_back(
          std::make_unique<Session>(world.attachment(world.admit(getpid())), world.shared_space()));
    }
    for (int i = 0; i < count; ++i) {
      threads.emplace_back([&, i] {
        try {
          body(*sessions[static_cast<std::size_t>(i)], i);
        } catch (const std::exception& error) {
          ADD_FAILURE() << "worker " << i << ": " << error.what();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    return;
  }
  std::vector<pid_t> pids;
  for (int i = 0; i < count; ++i) {
    const std::uint32_t slot = world.admit(getpid());
    pids.push_back(fork_worker(world, slot, [&](Session& session) { body(session, i); }));
  }
  for (const pid_t pid : pids) EXPECT_EQ(wait_for(pid), 0) << "worker process " << pid;
}

Entry* at(Transaction& t, std::initializer_list<std::string_view> path) {
  Mapping* mapping = t.root();
  Entry* entry = nullptr;
  for (std::size_t i = 0; i < path.size(); ++i) {
    entry = t.entry(mapping, key(path.begin()[i]));
    if (i + 1 < path.size()) mapping = t.child(entry);
  }
  return entry;
}

Value read(Transaction& t, std::initializer_list<std::string_view> path) {
  return t.read(at(t, path));
}

Value read(Snapshot& s, std::initializer_list<std::string_view> path) {
  std::uint64_t node = s.root();
  Value value;
  for (std::size_t i = 0; i < path.size(); ++i) {
    value = s.find(node, key(path.begin()[i]));
    if (i + 1 < path.size()) {
      if (value.kind != Value::Kind::kMapping) return {};
      node = value.node;
    }
  }
  return value;
}

std::vector<std::string> keys(Snapshot& s, std::initializer_list<std::string_view> path) {
  const std::uint64_t node = path.size() == 0 ? s.root() : read(s, path).node;
  std::vector<std::string> result;
  Snapshot::Cursor cursor = s.iterate(node);
  shm::KeyView each;
  Value value;
  while (s.next(cursor, &each, &value)) result.emplace_back(each.whole());
  return result;
}

void commit(Session& session, const std::function<void(Transaction&)>& body, int attempts) {
  Transaction transaction(session);
  for (int i = 0; i < attempts; ++i) {
    transaction.begin(Isolation::kSerializable);
    body(transaction);
    const CommitResult result = transaction.commit();
    if (result.status != CommitResult::Status::kConflict) return;
  }
  FAIL() << "no commit after " << attempts << " attempts";
}

char state_of(pid_t thread) {
  std::ifstream stat("/proc/self/task/" + std::to_string(thread) + "/stat");
  std::string line;
  std::getline(stat, line);
  const std::size_t end = line.rfind(')');
  return end == std::string::npos || end + 2 >= line.size() ? '?' : line[end + 2];
}

}  // namespace theus::testing
