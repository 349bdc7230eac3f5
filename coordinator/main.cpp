// theus-coordinator: the command.

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <span>
#include <string>

#include "coordinator/estate.h"
#include "coordinator/log.h"
#include "coordinator/options.h"
#include "coordinator/process_setup.h"
#include "coordinator/server.h"
#include "coordinator/supervisor.h"
#include "shm/control_channel.h"

namespace {

using namespace theus;

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

// In the child: until it is told to end. The supervisor removes the files.
int serve(const coordinator::Estate& estate, coordinator::Supervisor::Child child,
          spdlog::logger& log) {
  try {
    coordinator::Server server(estate, std::move(child.roster), std::move(child.channel), log);
    server.run();
    return 0;
  } catch (const std::exception& error) {
    log.critical("cannot go on: {}", error.what());
    return kExitFailed;
  }
}

int fail(const shm::OwnedFd& starter, shm::Reason reason, const std::string& text) {
  std::fprintf(stderr, "theus-coordinator: %s\n", text.c_str());
  if (starter) {
    shm::send_control(starter.get(), shm::Failed{{reason, text}});
  }
  return kExitFailed;
}

int supervise(coordinator::Estate& estate, spdlog::logger& log) {
  coordinator::Supervisor supervisor(estate, log);
  try {
    if (auto child = supervisor.run()) {
      return serve(estate, std::move(*child), log);
    }
    return supervisor.status();
  } catch (const std::exception& error) {
    log.critical("the supervisor cannot go on: {}", error.what());
    estate.remove_files();
    return kExitFailed;
  }
}

int run(const coordinator::Options& options, shm::OwnedFd starter) {
  try {
    if (starter) {
      coordinator::leave_parent();
    }
    const auto log = coordinator::make_logger(options.name, options.log_path, options.log_level);
    coordinator::Estate estate = coordinator::Estate::claim(options);
    estate.starter = std::move(starter);
    if (options.embedded && ::chdir("/") != 0) {
      log->warn("cannot leave the current directory");  // it then stays in use; no more than that
    }
    return supervise(estate, *log);
  } catch (const coordinator::NameTaken& error) {
    return fail(starter, shm::Reason::kNameTaken, error.what());
  } catch (const std::exception& error) {
    return fail(starter, shm::Reason::kOther, error.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::span<const char* const> all(argv, static_cast<std::size_t>(argc));
  const auto words = all.empty() ? all : all.subspan(1);
  coordinator::CommandLine line;
  try {
    line = coordinator::parse_command_line(words);
  } catch (const coordinator::UsageError& error) {
    fail(shm::OwnedFd(coordinator::find_starter_fd(words)), shm::Reason::kOther, error.what());
    return kExitUsage;
  }
  if (line.print) {
    std::fputs(line.print->c_str(), stdout);
    return 0;
  }
  coordinator::detach_from_inheritance(line.options.starter_fd);
  return run(line.options, shm::OwnedFd(line.options.starter_fd));
}
