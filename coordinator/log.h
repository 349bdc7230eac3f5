// Logging: spdlog to stderr or a file. Lines name the process and the slot they are about.
#pragma once

#include <spdlog/logger.h>

#include <cstdint>
#include <memory>
#include <string>

namespace theus::coordinator {

// `path` "-": stderr. `level`: a name that options.h accepts. Throws spdlog::spdlog_ex when the
// file cannot be opened. Writes at once and has no thread, so that the supervisor may fork.
std::shared_ptr<spdlog::logger> make_logger(const std::string& name, const std::string& path,
                                            const std::string& level);

// Bounds what strangers can make us log: a program that connects in a loop must not fill the disk.
//
// Thread safety: one thread at a time.
class LogBudget {
 public:
  // True if a line may be written now; if lines were withheld before, says so in `log` first.
  bool spend(spdlog::logger& log);

 private:
  std::uint64_t window_start_ns_ = 0;
  std::uint32_t spent_ = 0;
  std::uint64_t withheld_ = 0;
};

}  // namespace theus::coordinator
