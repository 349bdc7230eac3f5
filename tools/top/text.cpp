#include "tools/top/text.h"

#include <limits>

#include "tools/top/format.h"

namespace theus::top {
namespace {

std::string age_text(const PinAge& pin) {
  return (pin.at_least ? ">" : "") + short_seconds(pin.seconds);
}

std::string title(const Picture& picture) {
  const Sample& sample = picture.sample;
  std::string line = "theus-top  " + picture.name;
  line += picture.restarting ? "   coordinator is being restarted"
                             : "   coordinator " + std::to_string(sample.coordinator_pid);
  if (picture.supervisor_pid == 0) line += " (nothing restarts it)";
  line += "   up " + short_seconds(picture.uptime_s);
  line += "   workers " + std::to_string(picture.workers.size());
  return line;
}

std::string traffic(const Picture& picture) {
  return "commits/s " + short_number(picture.commits_per_s) + "   conflicts/s " +
         short_number(picture.conflicts_per_s) + " (" + percent(picture.conflict_share) +
         ")   read-only/s " + short_number(picture.read_only_per_s) + "   clock " +
         grouped(picture.sample.clock);
}

std::string memory(const Sample& sample) {
  return "memory " + short_bytes(sample.used_bytes) + " used, " +
         short_bytes(sample.capacity_bytes - sample.used_bytes) + " free of " +
         short_bytes(sample.capacity_bytes) + "   keys " + grouped(sample.keys) + "   (" +
         short_bytes(sample.backed_bytes) + " from the system)";
}

std::string oldest_pin(const Picture& picture) {
  if (!picture.oldest_pin) return "oldest pin: none";
  const PinAge& pin = *picture.oldest_pin;
  return "oldest pin: pid " + std::to_string(pin.pid) + ", " + grouped(pin.versions_behind) +
         " versions behind, " + age_text(pin);
}

std::string upkeep(const Sample& sample) {
  return "retained keys " + grouped(sample.retained_keys) + "   dead nodes " +
         grouped(sample.dead_nodes) + "   lock repairs " + grouped(sample.lock_repairs);
}

constexpr std::size_t kSlot = 4, kPid = 8, kState = 8, kNumber = 8, kShare = 7, kPins = 5,
                      kViews = 6, kBehind = 8, kAge = 8;

std::string column_names() {
  return right("SLOT", kSlot) + right("PID", kPid) + " " + left("STATE", kState) +
         right("COMMIT/S", kNumber) + right("CONFL", kShare) + right("READ/S", kNumber) +
         right("PINS", kPins) + right("VIEWS", kViews) + right("BEHIND", kBehind) +
         right("PIN AGE", kAge) + "  LABEL";
}

std::string row_text(const WorkerRow& row) {
  return right(std::to_string(row.sample.slot), kSlot) +
         right(std::to_string(row.sample.pid), kPid) + " " + left(row.state, kState) +
         right(short_number(row.commits_per_s), kNumber) +
         right(percent(row.conflict_share), kShare) +
         right(short_number(row.read_only_per_s), kNumber) +
         right(std::to_string(row.sample.pins), kPins) +
         right(std::to_string(row.sample.views), kViews) +
         right(row.pin ? short_number(static_cast<double>(row.pin->versions_behind)) : "-",
               kBehind) +
         right(row.pin ? age_text(*row.pin) : "-", kAge) + "  " + row.sample.label;
}

}  // namespace

Page lay_out(const Picture& picture, std::size_t width, std::size_t height) {
  constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();
  if (width == 0) width = kNoLimit;
  if (height == 0) height = kNoLimit;
  Page page;
  page.lines = {title(picture),      traffic(picture),       memory(picture.sample),
                oldest_pin(picture), upkeep(picture.sample), ""};
  page.head = page.lines.size();
  page.lines.push_back(column_names());
  std::size_t shown = 0;
  for (const WorkerRow& row : picture.workers) {
    const bool last_line = page.lines.size() + 1 >= height;
    if (last_line && shown + 1 < picture.workers.size()) break;
    page.lines.push_back(row_text(row));
    ++shown;
  }
  if (shown < picture.workers.size()) {
    page.lines.push_back("     and " + std::to_string(picture.workers.size() - shown) +
                         " more: enlarge the window, or use --once");
  }
  if (page.lines.size() > height) page.lines.resize(height);
  for (std::string& line : page.lines) line = cut(line, width);
  return page;
}

}  // namespace theus::top
