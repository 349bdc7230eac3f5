#include "bindings/losses.h"

#include <algorithm>

namespace theus::bindings {
namespace {

constexpr std::uint64_t kTurnsPerExecution = 3;
constexpr std::uint64_t kTurnNsMin = 1'000'000;
constexpr std::uint64_t kTurnNsMax = 1'000'000'000;
constexpr std::uint32_t kDoublingsMax = 10;
constexpr std::uint64_t kPatienceNs = 10'000'000'000;
// It reads something else each time, or much: then nobody else of this process commits.
constexpr std::uint32_t kTurnsBeforeEverything = 2;

}  // namespace

worker::TurnWish wish_for(const Losses& losses, const worker::Footprint* met) {
  worker::TurnWish wish;
  // One that was too short for it, because others used the processor: the next is longer.
  wish.nanoseconds = std::clamp(losses.longest_ns * kTurnsPerExecution, kTurnNsMin, kTurnNsMax);
  wish.nanoseconds =
      std::min(wish.nanoseconds << std::min(losses.turns, kDoublingsMax), kTurnNsMax);
  wish.patience_ns = kPatienceNs;
  if (met != nullptr) wish.expected = *met;
  // A body that outlasts any turn gains nothing by that.
  if (losses.turns >= kTurnsBeforeEverything && losses.longest_ns < kTurnNsMax) {
    wish.expected.everything = true;
  }
  return wish;
}

}  // namespace theus::bindings
