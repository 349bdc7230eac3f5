#include "tools/top/screen.h"

// Macros named like everything: only the functions are wanted.
#define NCURSES_NOMACROS
#include <curses.h>
#include <poll.h>
#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <clocale>
#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace theus::top {
namespace {

constexpr int kEnding[] = {SIGINT, SIGTERM, SIGHUP};
constexpr int kFatal[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};

volatile sig_atomic_t caught = 0;
sigset_t mask_before;

void note(int number) { caught = number; }

// What a handler of a fatal signal may use: plain memory, prepared while all was well.
termios terminal_before;
char leave_sequence[256];
std::size_t leave_bytes = 0;

void restore_and_die(int number) {
  // Only functions that POSIX allows in a handler; curses' own endwin() is none.
  static_cast<void>(!write(STDOUT_FILENO, leave_sequence, leave_bytes));
  tcsetattr(STDIN_FILENO, TCSANOW, &terminal_before);
  raise(number);  // SA_RESETHAND: now with the default action
}

void remember(const char* capability) {
  const char* text = tigetstr(capability);
  if (text == nullptr || text == reinterpret_cast<const char*>(-1)) return;
  const std::size_t length = std::strlen(text);
  if (leave_bytes + length > sizeof leave_sequence) return;
  std::memcpy(leave_sequence + leave_bytes, text, length);
  leave_bytes += length;
}

}  // namespace

Signals::Signals() {
  sigset_t ending;
  sigemptyset(&ending);
  for (const int number : kEnding) sigaddset(&ending, number);
  pthread_sigmask(SIG_BLOCK, &ending, &mask_before);
  for (const int number : kEnding) {
    struct sigaction action {};
    sigaction(number, nullptr, &action);
    if (action.sa_handler == SIG_IGN) continue;  // nohup
    action = {};
    action.sa_handler = note;
    sigaction(number, &action, nullptr);
    sigdelset(&mask_before, number);
  }
}

int Signals::pending() const { return caught; }

void Signals::wait(double seconds, int fd) {
  const auto whole = static_cast<time_t>(seconds);
  const timespec limit{whole, static_cast<long>((seconds - static_cast<double>(whole)) * 1e9)};
  pollfd entry{fd, POLLIN, 0};
  ppoll(&entry, fd >= 0 ? 1 : 0, &limit, &mask_before);
}

void Signals::end_by(int signal_number) {
  signal(signal_number, SIG_DFL);
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, signal_number);
  raise(signal_number);
  pthread_sigmask(SIG_UNBLOCK, &only, nullptr);
  _exit(128 + signal_number);
}

Screen::Screen() {
  setlocale(LC_CTYPE, "");
  tcgetattr(STDIN_FILENO, &terminal_before);
  // newterm, unlike initscr, reports an unknown terminal instead of ending the process.
  SCREEN* screen = newterm(nullptr, stdout, stdin);
  if (screen == nullptr) {
    throw std::runtime_error("this terminal (TERM) is not known; use --once or --json");
  }
  set_term(screen);
  remember("cnorm");
  remember("sgr0");
  remember("rmcup");
  for (const int number : kFatal) {
    struct sigaction action {};
    action.sa_handler = restore_and_die;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(number, &action, nullptr);
  }
  cbreak();
  noecho();
  keypad(stdscr, TRUE);
  nodelay(stdscr, TRUE);
  curs_set(0);
}

Screen::~Screen() {
  endwin();
  for (const int number : kFatal) signal(number, SIG_DFL);
}

std::size_t Screen::width() const { return static_cast<std::size_t>(std::max(1, COLS)); }
std::size_t Screen::height() const { return static_cast<std::size_t>(std::max(1, LINES)); }

void Screen::show(const Page& page, const char* notice) {
  erase();
  for (std::size_t i = 0; i < page.lines.size(); ++i) {
    if (i == page.head) attron(A_REVERSE);
    mvaddstr(static_cast<int>(i), 0, page.lines[i].c_str());
    if (i == page.head) attroff(A_REVERSE);
  }
  if (notice != nullptr) {
    attron(A_BOLD);
    mvaddnstr(LINES - 1, 0, notice, COLS);
    attroff(A_BOLD);
  }
  refresh();
}

bool Screen::quit_pressed() {
  for (int key = getch(); key != ERR; key = getch()) {
    if (key == 'q' || key == 'Q') return true;
  }
  return false;
}

}  // namespace theus::top
