// What theus-coordinator does to itself before anything else: nothing inherited, nothing tied to
// whoever started it.
#pragma once

#include <cstdint>

namespace theus::coordinator {

// Closes every inherited descriptor but stdio and `keep_fd` (-1: none), puts /dev/null where stdio
// is missing, gives signals their usual meaning (ignoring SIGPIPE and SIGXFSZ: both are errors that
// calls return), and raises the descriptor limit as far as it goes.
void detach_from_inheritance(int keep_fd);

// True when hardly any are left below the limit, as the newest descriptor's number tells: the
// kernel gives out the lowest free one. Some are kept for pidfds, restarts and log files.
bool short_of_descriptors(int newest_fd);
std::uint64_t descriptor_limit();

// Makes a second process and ends the first, so that whoever started this has nothing left to wait
// for. Returns in the second. Throws std::system_error.
void leave_parent();

}  // namespace theus::coordinator
