#include "worker/inheritance.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <exception>
#include <utility>

#include "shm/arbiter.h"
#include "shm/control_channel.h"
#include "worker/connection.h"
#include "worker/internals.h"
#include "worker/private_view.h"

namespace theus::worker {
namespace {

// A coordinator that is restarted in the middle closes the first socket.
constexpr int kAsksMax = 3;

}  // namespace

void Inheritance::begin() {
  control_ = shm::KnownFd(shm::OwnedFd(in_.attachment.control_fd));
  adopt_ = shm::encode_control(shm::Adopt{});
  shm::ForkLock lock;
  lock.add(*this);
  ask(/*copy=*/false);
}

void Inheritance::end() {
  // Whoever forks during this inherits all of it, or nothing.
  shm::ForkLock lock;
  lock.remove(*this);
  socket_.reset();
  if (control_.get() >= 0) {
    // Read by the coordinator at the socket's end of file, which orders it: the message below is
    // lost with a coordinator that dies right after it has read it. If we die before it, the
    // process's end says the same. The last that is stored in shared memory from here.
    if (!in_.lost) in_.desk->leaving.store(in_.admission, std::memory_order_release);
    announce_detach(control_.get());
  }
  control_.reset();
  in_.attachment.control_fd = -1;
}

// Forked children of children: a process that keeps no views has nothing to hand on.
bool Inheritance::anything_pinned() const {
  if (!in_.fork_guard.keeps_views()) return false;
  if (in_.block_pins_high > in_.free_block_pins.size()) return true;
  for (const Session::Internals::SharedPin& pin : in_.shared_pins) {
    if (pin.snapshots > 0) return true;
  }
  return false;
}

// False: there is nobody to ask. Does not wait for the answer.
bool Inheritance::ask(bool copy) {
  spare_.reset();
  socket_.reset();
  if (control_.get() < 0) return false;
  try {
    auto [ours, theirs] = shm::make_control_pair();
    if (shm::send_control(control_.get(), shm::Reserve{copy}, {theirs.get()}) == shm::Sent::kYes) {
      socket_ = shm::KnownFd(std::move(ours));
    }
  } catch (const std::exception&) {
    // Out of memory or descriptors: asked for again at the next fork.
  }
  return socket_.get() >= 0;
}

// True once a spare slot is ours.
bool Inheritance::obtain(bool copy) {
  const std::uint64_t deadline_ns = shm::monotonic_ns() + kPatienceNs;
  if (socket_.get() < 0) spare_.reset();
  for (int asks = 0; !spare_ && asks < kAsksMax; ++asks) {
    if (socket_.get() < 0 && !ask(copy)) return false;
    const shm::Received received = shm::await_control(socket_.get(), deadline_ns);
    if (received.what == shm::Received::What::kNothing) return false;  // perhaps next time
    const auto* reserved = std::get_if<shm::Reserved>(&received.message);
    if (received.what == shm::Received::What::kMessage && reserved != nullptr) {
      spare_ = reserved->tenancy;
    } else {
      socket_.reset();
    }
  }
  return spare_.has_value();
}

bool Inheritance::fill() {
  if (in_.lost || !obtain(/*copy=*/false)) return false;
  // The session's own arbiter may be in use by a thread that waits for its answer. Such a thread
  // does not hold the lock, and whoever does needs nothing of ours to let go of it.
  shm::Arbiter arbiter(in_.space, in_.attachment.slot);
  if (!arbiter.lock_for(kPatienceNs)) return false;
  const bool copied = arbiter.copy_pins(in_.attachment.slot, spare_->slot, spare_->admission);
  arbiter.unlock();
  if (!copied) {  // the coordinator has taken it back: the next fork has another
    socket_.reset();
    spare_.reset();
  }
  return copied;
}

void Inheritance::before_fork() noexcept {
  in_.block_pin_mutex.lock();  // held for moments only, by anybody
  filled_ = unprotected_ = false;
  if (!anything_pinned()) return;
  try {
    filled_ = in_.fork_guard.forked() ? obtain(/*copy=*/true) : fill();
  } catch (const std::exception&) {
    // Out of memory: the same as no slot.
  }
  unprotected_ = !filled_;
}

void Inheritance::after_fork_in_parent() noexcept {
  const bool heir = in_.fork_guard.forked();
  // The child's, or, where there is no child, nobody's: then its socket is at end of file now. A
  // copy that came too late is outdated.
  if (filled_ || heir) socket_.reset();
  if (socket_.get() < 0) {
    spare_.reset();
    if (!heir) ask(/*copy=*/false);
  }
  in_.block_pin_mutex.unlock();
}

void Inheritance::after_fork_in_child() noexcept {
  // The coordinator learns from its end of file that the parent is gone.
  control_.reset();
  in_.attachment.control_fd = -1;
  if (filled_) {
    become_heir();
  } else {
    socket_.reset();
    if (unprotected_) forbid_reading();
  }
  spare_.reset();
  filled_ = unprotected_ = false;
  in_.block_pin_mutex.unlock();
}

void Inheritance::forbid_reading() const noexcept {
  in_.space.forbid_reading();
  for (const PrivateView* view = in_.private_views; view != nullptr; view = view->next_) {
    view->forbid();
  }
}

// From here on the session is the child's as far as pins go: slot, desk, control socket.
void Inheritance::become_heir() noexcept {
  control_ = std::move(socket_);
  in_.attachment.control_fd = control_.get();
  in_.attachment.slot = spare_->slot;
  in_.admission = static_cast<std::uint32_t>(spare_->admission);
  in_.desk = &in_.space.desk(spare_->slot);
  in_.pins.inherit(spare_->slot);
  // Transactions stay behind: a child cannot use them, and their pins would never be released.
  for (std::uint32_t i = 0; i < in_.shared_pins.size(); ++i) {
    Session::Internals::SharedPin& pin = in_.shared_pins[i];
    if (pin.users > 0 && pin.snapshots == 0) in_.pins.release(i);
    pin.users = pin.snapshots;
  }
  in_.fork_guard.become_heir();
  in_.space.mark_process();  // before the coordinator hears of us
  // Without this (no descriptor left, say) the slot lives by the socket alone.
  const auto pidfd = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0u));
  if (pidfd < 0) return;
  shm::send_encoded(control_.get(), adopt_, std::span<const int>(&pidfd, 1));
  close(pidfd);
}

}  // namespace theus::worker
