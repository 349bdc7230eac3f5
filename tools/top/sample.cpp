#include "tools/top/sample.h"

#include <algorithm>
#include <cstring>

namespace theus::top {
namespace {

using shm::Desk;
using shm::Header;

std::uint64_t load(const shm::Word& word) { return word.load(std::memory_order_relaxed); }
std::uint32_t load(const shm::HalfWord& word) { return word.load(std::memory_order_relaxed); }

void sample_pins(const Desk& desk, std::uint64_t clock, WorkerSample& worker) {
  // Acquire: a pin is stored after the mark that covers it.
  const std::uint32_t high =
      std::min(desk.pins_high.load(std::memory_order_acquire), shm::kPinsPerDesk);
  constexpr std::uint32_t kRecorded = sizeof(desk.pin_taken_ns) / sizeof(desk.pin_taken_ns[0]);
  for (std::uint32_t i = 0; i < high; ++i) {
    const std::uint64_t word = load(desk.pins[i]);
    if (word == 0) continue;
    ++worker.pins;
    // A pin may be younger than the clock that was read before it, never by much.
    const std::uint64_t version = std::min(word - 1, clock);
    if (worker.oldest_pin && worker.oldest_pin->version <= version) continue;
    worker.oldest_pin = PinSample{i, version, i < kRecorded ? load(desk.pin_taken_ns[i]) : 0};
  }
  const std::uint32_t blocks =
      std::min(desk.block_pins_high.load(std::memory_order_acquire), shm::kBlockPinsPerDesk);
  for (std::uint32_t i = 0; i < blocks; ++i) worker.views += load(desk.block_pins[i]) != 0;
}

// Length of the UTF-8 sequence at `text`, 0 if there is none that may be printed.
std::size_t sequence_length(const unsigned char* text, std::size_t left) {
  const unsigned char first = text[0];
  if (first < 0x80) return first >= 0x20 && first != 0x7F ? 1 : 0;
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || length > left) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((text[i] & 0xC0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, beyond U+10FFFF, and the control characters U+0080 to U+009F.
  if (first == 0xE0 && text[1] < 0xA0) return 0;
  if (first == 0xED && text[1] > 0x9F) return 0;
  if (first == 0xF0 && text[1] < 0x90) return 0;
  if (first == 0xF4 && text[1] > 0x8F) return 0;
  if (first == 0xC2 && text[1] < 0xA0) return 0;
  return length;
}

}  // namespace

std::string printable(const char* text, std::size_t size) {
  const std::size_t length = strnlen(text, size);
  const auto* bytes = reinterpret_cast<const unsigned char*>(text);
  std::string result;
  for (std::size_t i = 0; i < length;) {
    const std::size_t sequence = sequence_length(bytes + i, length - i);
    if (sequence == 0) {
      result += '?';
      ++i;
    } else {
      result.append(text + i, sequence);
      i += sequence;
    }
  }
  return result;
}

Sample take_sample(const shm::Space& space, std::uint64_t now_ns) {
  const Header& header = space.header();
  Sample sample;
  sample.taken_ns = now_ns;
  sample.clock = header.clock.load(std::memory_order_acquire);
  const std::uint64_t extents =
      std::min(load(header.extent_count), space.capacity_bytes() / shm::kExtentBytes);
  sample.capacity_bytes = extents * shm::kExtentBytes;
  sample.used_bytes = std::min(load(header.used_extents), extents) * shm::kExtentBytes;
  sample.backed_bytes = std::min(load(header.backed_extents), extents) * shm::kExtentBytes;
  sample.keys = load(header.key_count);
  sample.retained_keys = load(header.retained_count);
  sample.dead_nodes = load(header.dead_count);
  sample.lock_repairs = load(header.repairs);
  sample.created_at_ns = load(header.created_at_ns);
  sample.coordinator_pid = load(header.coordinator_pid);
  const std::uint32_t slots = std::min(load(header.slots_high), shm::kMaxSlots);
  for (std::uint32_t slot = 0; slot < slots; ++slot) {
    const shm::SlotRecord& record = header.slots[slot];
    const std::uint32_t state = record.state.load(std::memory_order_acquire);
    if (state != static_cast<std::uint32_t>(shm::SlotState::kAdmitted) &&
        state != static_cast<std::uint32_t>(shm::SlotState::kLeaving)) {
      continue;
    }
    const Desk& desk = space.desk_readable(slot);
    WorkerSample worker;
    worker.slot = slot;
    worker.admission = load(record.admitted_sequence);
    worker.pid = load(record.pid);
    worker.leaving = state == static_cast<std::uint32_t>(shm::SlotState::kLeaving);
    char label[shm::kLabelBytes];
    std::memcpy(label, desk.label, sizeof label);  // looked at only once it cannot change any more
    worker.label = printable(label, sizeof label);
    worker.commits = load(desk.counters.commits);
    worker.conflicts = load(desk.counters.conflicts);
    worker.read_only = load(desk.counters.read_only);
    worker.rollbacks = load(desk.counters.rollbacks);
    worker.combined = load(desk.counters.combined);
    worker.lock_waits = load(desk.counters.lock_waits);
    sample_pins(desk, sample.clock, worker);
    sample.workers.push_back(std::move(worker));
  }
  return sample;
}

}  // namespace theus::top
