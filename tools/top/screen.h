// The terminal in full-screen mode, and the signals that end or interrupt waiting.
#pragma once

#include <cstddef>

#include "tools/top/text.h"

namespace theus::top {

// SIGINT, SIGTERM and SIGHUP are blocked from construction on, except during waits, so that none
// is lost between a look at it and the wait. One object; thread safety: one thread.
class Signals {
 public:
  Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  // The number of one that has come, 0: none.
  int pending() const;
  // Sleeps until the time is up, a signal comes (a resized terminal's, too), or, with fd >= 0, that
  // descriptor is readable.
  void wait(double seconds, int fd);
  // Ends this process by that signal, as if it had not been handled. Does not return.
  [[noreturn]] static void end_by(int signal_number);
};

// Resource type: the terminal is as it was when this goes, and also when the process ends by a
// fatal signal. Throws std::runtime_error when the terminal cannot be used so.
class Screen {
 public:
  Screen();
  ~Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  std::size_t width() const;
  std::size_t height() const;
  void show(const Page& page, const char* notice);  // notice: last line, nullptr for none
  // Keys that have been pressed since. True: one of them was q. Never blocks.
  bool quit_pressed();
};

}  // namespace theus::top
