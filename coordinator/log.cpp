#include "coordinator/log.h"

#include <spdlog/common.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <utility>

#include "shm/control_channel.h"

namespace theus::coordinator {
namespace {

constexpr std::uint64_t kWindowNs = 1'000'000'000;
constexpr std::uint32_t kLinesPerWindow = 20;

}  // namespace

std::shared_ptr<spdlog::logger> make_logger(const std::string& name, const std::string& path,
                                            const std::string& level) {
  spdlog::sink_ptr sink;
  if (path == "-") {
    sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  } else {
    sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
  }
  auto logger = std::make_shared<spdlog::logger>("theus", std::move(sink));
  // Both processes write into one log: the pid tells them apart.
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z theus-coordinator[%P] " + name + " %l: %v");
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::trace);
  return logger;
}

bool LogBudget::spend(spdlog::logger& log) {
  const std::uint64_t now = shm::monotonic_ns();
  if (now - window_start_ns_ >= kWindowNs) {
    window_start_ns_ = now;
    spent_ = 0;
    if (withheld_ > 0) {
      log.warn("{} lines like the following were not written", std::exchange(withheld_, 0));
    }
  }
  if (spent_ == kLinesPerWindow) {
    ++withheld_;
    return false;
  }
  ++spent_;
  return true;
}

}  // namespace theus::coordinator
