// Starting a coordinator's processes.
#pragma once

#include <string>
#include <variant>

#include "shm/control_message.h"
#include "worker/connection.h"

namespace theus::worker {

// Starts one and waits until it serves connections, or says why it does not (kNameTaken: another
// one has the name). `options.name` is not empty. Throws Error when not even that can be had.
std::variant<Started, shm::Refusal> launch(const StartOptions& options, std::uint64_t deadline_ns);

}  // namespace theus::worker
