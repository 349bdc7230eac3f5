#include "coordinator/event_loop.h"

#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

namespace theus::coordinator {
namespace {

// Handled between two looks at everything else that has to be done.
constexpr int kEventsMax = 64;

[[noreturn]] void throw_errno(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

timespec to_timespec(std::uint64_t ns) {
  return {static_cast<time_t>(ns / 1'000'000'000u), static_cast<long>(ns % 1'000'000'000u)};
}

}  // namespace

EventLoop::EventLoop() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_) {
    throw_errno("epoll_create1");
  }
}

EventLoop::Ticket EventLoop::watch(int fd, Handler handler) {
  const Ticket ticket = ++last_;
  epoll_event event{};
  event.events = EPOLLIN | EPOLLRDHUP;
  event.data.u64 = ticket;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    throw_errno("epoll_ctl");
  }
  watches_.emplace(ticket, std::make_shared<Watch>(Watch{fd, std::move(handler)}));
  return ticket;
}

void EventLoop::forget(Ticket* ticket) {
  const auto found = watches_.find(std::exchange(*ticket, 0));
  if (found == watches_.end()) {
    return;
  }
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->second->fd, nullptr);
  watches_.erase(found);
}

void EventLoop::run_once(int timeout_ms) {
  std::array<epoll_event, kEventsMax> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), kEventsMax, timeout_ms);
  if (count < 0 && errno != EINTR) {
    throw_errno("epoll_wait");
  }
  for (int i = 0; i < count; ++i) {
    // A copy: epoll_event is packed, and a reference into it may be misaligned.
    const Ticket ticket = events[static_cast<std::size_t>(i)].data.u64;
    const auto found = watches_.find(ticket);
    if (found != watches_.end()) {
      // A copy, as the handler may forget itself.
      const std::shared_ptr<Watch> watch = found->second;
      watch->handler();
    }
  }
}

Timer::Timer(EventLoop& loop, EventLoop::Handler handler)
    : loop_(loop), fd_(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)) {
  if (!fd_) {
    throw_errno("timerfd_create");
  }
  ticket_ = loop.watch(fd_.get(), [this, call = std::move(handler)] {
    std::uint64_t times = 0;
    if (::read(fd_.get(), &times, sizeof(times)) == sizeof(times)) {
      call();
    }
  });
}

Timer::~Timer() { loop_.forget(&ticket_); }

void Timer::every(std::uint64_t interval_ns) { set(interval_ns, interval_ns, 0); }

void Timer::at(std::uint64_t monotonic_ns) {
  // The value 0 would stop it.
  set(std::max<std::uint64_t>(monotonic_ns, 1), 0, TFD_TIMER_ABSTIME);
}

void Timer::stop() { set(0, 0, 0); }

void Timer::set(std::uint64_t value_ns, std::uint64_t interval_ns, int flags) {
  itimerspec when{};
  when.it_value = to_timespec(value_ns);
  when.it_interval = to_timespec(interval_ns);
  if (::timerfd_settime(fd_.get(), flags, &when, nullptr) != 0) {
    throw_errno("timerfd_settime");
  }
}

}  // namespace theus::coordinator
