// Control messages as values: what control.capnp describes, decoded and checked.
//
// Thread safety: plain values and pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace theus::shm {

// Of one message, on the wire. The largest honest one is a refusal with two layout descriptions.
inline constexpr std::size_t kControlBytesMax = 4096;
// Longer texts are cut when sent and refused when received: they end in logs and exceptions.
inline constexpr std::size_t kControlTextMax = 1024;
// A welcome has three. More than these in one message would only fill our descriptor table.
inline constexpr std::size_t kControlFdsMax = 4;

// What must be the same on both sides of a control socket, and who is talking.
struct Identity {
  std::uint64_t stamp = 0;
  std::string layout;
  std::string libc;
  std::uint64_t pid_namespace = 0;
  std::uint32_t pid = 0;
  std::uint64_t start_time = 0;  // clock ticks since boot
};

enum class Role : std::uint8_t { kWorker, kObserver };

struct Hello {
  Identity identity;
  Role role = Role::kWorker;
};
struct Confirm {
  std::uint64_t number = 0;
};
struct Detach {};
struct Stuck {
  std::uint64_t sequence = 0;
};
struct Stop {};
struct Proceed {
  std::uint64_t number = 0;
};
struct Welcome {
  std::uint32_t slot = 0;  // an observer's: meaningless
  std::uint32_t coordinator_pid = 0;
  std::uint32_t supervisor_pid = 0;
  std::uint64_t capacity_bytes = 0;
};
enum class Reason : std::uint8_t {
  kOther,
  kMismatch,
  kForeign,
  kFull,
  kNameTaken,
  kNotFound,
  kUnavailable,
};
struct Refusal {
  Reason reason = Reason::kOther;
  std::string text;
};
struct Stopping {};
struct Ready {};
// One stay of a process in a slot.
struct Tenancy {
  std::uint32_t slot = 0;
  std::uint64_t admission = 0;
  bool operator==(const Tenancy&) const = default;
};
struct Admitted {
  Tenancy tenancy;
  std::uint32_t pid = 0;
  std::uint64_t start_time = 0;
};
struct Welcomed {
  Tenancy tenancy;
};
struct Detached {
  Tenancy tenancy;
};
struct Dropped {
  Tenancy tenancy;
};
struct Acknowledged {
  Tenancy tenancy;
  bool accepted = false;
};
struct Started {
  std::uint32_t coordinator_pid = 0;
  std::uint32_t supervisor_pid = 0;
};
struct Failed {
  Refusal refusal;
};
struct Reserve {
  bool copy = false;  // with the pins of the sender's slot
};
struct Reserved {
  Tenancy tenancy;
};
struct Adopt {};
struct Adopted {
  Tenancy tenancy;
  std::uint32_t pid = 0;
  std::uint64_t start_time = 0;
};

using ControlMessage =
    std::variant<Hello, Confirm, Detach, Stuck, Stop, Proceed, Welcome, Refusal, Stopping, Ready,
                 Admitted, Welcomed, Detached, Dropped, Acknowledged, Started, Failed, Reserve,
                 Reserved, Adopt, Adopted>;

// The message as bytes, at most kControlBytesMax.
std::vector<std::byte> encode_control(const ControlMessage& message);

// nullopt, with *why, for bytes that are no message of ours: from a peer, so never an assertion.
// Texts come out without control characters. Every slot is below kMaxSlots.
std::optional<ControlMessage> decode_control(std::span<const std::byte> bytes, std::string* why);

// For logs: "hello", "stuck", ...
const char* control_name(const ControlMessage& message);

}  // namespace theus::shm
