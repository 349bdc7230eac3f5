#include "shm/fork.h"

#include <pthread.h>

#include <mutex>
#include <system_error>

namespace theus::shm {
namespace {

// Locked by the thread that forks and unlocked by the same thread on both sides of the fork.
std::mutex list_mutex;
ForkParticipant* first = nullptr;

}  // namespace

ForkLock::ForkLock() {
  static const int error = pthread_atfork(prepare, in_parent, in_child);
  if (error != 0) {
    throw std::system_error(error, std::generic_category(), "installing handlers for fork");
  }
  list_mutex.lock();
}

ForkLock::~ForkLock() { list_mutex.unlock(); }

void ForkLock::add(ForkParticipant& participant) {
  participant.next_ = first;
  if (first != nullptr) first->previous_ = &participant;
  first = &participant;
}

void ForkLock::remove(ForkParticipant& participant) {
  ForkParticipant*& from = participant.previous_ != nullptr ? participant.previous_->next_ : first;
  from = participant.next_;
  if (participant.next_ != nullptr) participant.next_->previous_ = participant.previous_;
  participant.next_ = participant.previous_ = nullptr;
}

void ForkLock::prepare() {
  list_mutex.lock();
  for (ForkParticipant* each = first; each != nullptr; each = each->next_) each->before_fork();
}

void ForkLock::in_parent() {
  for (ForkParticipant* each = first; each != nullptr; each = each->next_) {
    each->after_fork_in_parent();
  }
  list_mutex.unlock();
}

void ForkLock::in_child() {
  for (ForkParticipant* each = first; each != nullptr; each = each->next_) {
    each->after_fork_in_child();
  }
  list_mutex.unlock();
}

}  // namespace theus::shm
