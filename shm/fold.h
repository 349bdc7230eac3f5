// Commutative operations on numbers: what they mean, for the worker that shows its own change and
// for the arbiter that applies it to the newest version. As Python has it, for int and float.
#pragma once

#include <cstdint>
#include <optional>

namespace theus::shm {

enum class Fold : std::uint8_t { kNone, kAdd, kMaximum, kMinimum };
inline constexpr std::uint8_t kLastFold = static_cast<std::uint8_t>(Fold::kMinimum);

struct Number {
  bool is_real = false;
  std::int64_t integer = 0;
  double real = 0;

  static Number of(std::int64_t integer) { return {false, integer, 0}; }
  static Number of(double real) { return {true, 0, real}; }
};

// `now` with `operand` folded onto it. nullopt: an int that does not fit into 64 bits.
// An int and a float add up to a float; the greater and the smaller of both are found exactly and
// keep their type; `now` stays where they are equal. A NaN is neither: the other one is taken, so
// that the order of operations makes no difference.
std::optional<Number> fold(Fold how, Number now, Number operand);

}  // namespace theus::shm
