// What of ours happens around fork(): one list of everything that a forked child must not keep as
// it is (hidden mappings, control sockets, pins).
//
// Handlers are installed once, with pthread_atfork. From before_fork() until the last after_fork
// the list is locked, across the fork itself, so that the child finds it whole; forks of several
// threads come one after another, and nobody joins or leaves meanwhile.
//
// Whoever forks may hold locks of its own (Python's GIL). So nothing may be waited for under the
// list's lock, or in before_fork(), that needs such a lock.
#pragma once

namespace theus::shm {

class ForkParticipant {
 public:
  ForkParticipant() = default;
  ForkParticipant(const ForkParticipant&) = delete;
  ForkParticipant& operator=(const ForkParticipant&) = delete;

  // In the thread that forks, before; and after, whether or not there is a child.
  virtual void before_fork() noexcept {}
  virtual void after_fork_in_parent() noexcept {}
  // In the child, whose other threads are gone: calls nothing that is not async-signal-safe.
  virtual void after_fork_in_child() noexcept = 0;

 protected:
  ~ForkParticipant() = default;  // whoever has joined leaves first

 private:
  friend class ForkLock;
  ForkParticipant* next_ = nullptr;
  ForkParticipant* previous_ = nullptr;
};

// While it stands no thread of this process forks. For steps of which a child must see all or
// nothing: a descriptor or a mapping, and the participant that looks after it.
class ForkLock {
 public:
  ForkLock();  // throws std::system_error when the handlers cannot be installed
  ~ForkLock();
  ForkLock(const ForkLock&) = delete;
  ForkLock& operator=(const ForkLock&) = delete;

  void add(ForkParticipant& participant);
  void remove(ForkParticipant& participant);

 private:
  static void prepare();
  static void in_parent();
  static void in_child();
};

}  // namespace theus::shm
