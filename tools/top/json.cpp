#include "tools/top/json.h"

#include <cmath>
#include <cstdio>
#include <optional>

namespace theus::top {
namespace {

// Just enough: objects and arrays of numbers, texts and null.
class Writer {
 public:
  Writer& open(char bracket) {
    text_ += bracket;
    first_ = true;
    return *this;
  }
  Writer& close(char bracket) {
    text_ += bracket;
    first_ = false;
    return *this;
  }
  Writer& name(const char* field) {
    item();
    quote(field);
    text_ += ':';
    first_ = true;  // the value follows without a comma
    return *this;
  }
  void value(std::uint64_t number) {
    item();
    text_ += std::to_string(number);
  }
  void value(double number) {
    item();
    char digits[40];
    std::snprintf(digits, sizeof digits, "%.6g", std::isfinite(number) ? number : 0.0);
    text_ += digits;
  }
  void value(bool truth) {
    item();
    text_ += truth ? "true" : "false";
  }
  void value(const std::string& text) {
    item();
    quote(text);
  }
  void value(const std::optional<double>& number) {
    if (number) {
      value(*number);
    } else {
      null();
    }
  }
  void null() {
    item();
    text_ += "null";
  }
  void item() {
    if (!first_) text_ += ',';
    first_ = false;
  }
  std::string take() { return std::move(text_); }

 private:
  // Texts have been made printable UTF-8 before.
  void quote(const std::string& text) {
    text_ += '"';
    for (const char c : text) {
      if (c == '"' || c == '\\') text_ += '\\';
      text_ += c;
    }
    text_ += '"';
  }

  std::string text_;
  bool first_ = true;
};

void write_pin(Writer& out, const char* name, const std::optional<PinAge>& pin) {
  out.name(name);
  if (!pin) {
    out.null();
    return;
  }
  out.item();
  out.open('{');
  out.name("slot").value(std::uint64_t{pin->slot});
  out.name("pid").value(std::uint64_t{pin->pid});
  out.name("version").value(pin->version);
  out.name("versions_behind").value(pin->versions_behind);
  out.name("age_s").value(pin->seconds);
  out.name("age_is_lower_bound").value(pin->at_least);
  out.close('}');
}

void write_worker(Writer& out, const WorkerRow& row) {
  out.item();
  out.open('{');
  out.name("slot").value(std::uint64_t{row.sample.slot});
  out.name("pid").value(std::uint64_t{row.sample.pid});
  out.name("state").value(row.state);
  out.name("label").value(row.sample.label);
  out.name("commits").value(row.sample.commits);
  out.name("conflicts").value(row.sample.conflicts);
  out.name("read_only").value(row.sample.read_only);
  out.name("rollbacks").value(row.sample.rollbacks);
  out.name("commits_per_s").value(row.commits_per_s);
  out.name("conflicts_per_s").value(row.conflicts_per_s);
  out.name("conflict_share").value(row.conflict_share);
  out.name("read_only_per_s").value(row.read_only_per_s);
  out.name("rollbacks_per_s").value(row.rollbacks_per_s);
  out.name("combined_per_s").value(row.combined_per_s);
  out.name("lock_waits_per_s").value(row.lock_waits_per_s);
  out.name("pins").value(std::uint64_t{row.sample.pins});
  out.name("views").value(std::uint64_t{row.sample.views});
  write_pin(out, "oldest_pin", row.pin);
  out.close('}');
}

}  // namespace

std::string to_json(const Picture& picture, double time_unix_s) {
  const Sample& sample = picture.sample;
  Writer out;
  out.open('{');
  out.name("name").value(picture.name);
  out.name("time_unix_ms").value(static_cast<std::uint64_t>(time_unix_s * 1e3));
  out.name("interval_s").value(picture.interval_s);
  out.name("uptime_s").value(picture.uptime_s);
  out.name("coordinator_pid").value(std::uint64_t{sample.coordinator_pid});
  out.name("supervisor_pid").value(std::uint64_t{picture.supervisor_pid});
  out.name("restarting").value(picture.restarting);
  out.name("clock").value(sample.clock);
  out.name("commits_per_s").value(picture.commits_per_s);
  out.name("conflicts_per_s").value(picture.conflicts_per_s);
  out.name("conflict_share").value(picture.conflict_share);
  out.name("read_only_per_s").value(picture.read_only_per_s);
  out.name("capacity_bytes").value(sample.capacity_bytes);
  out.name("used_bytes").value(sample.used_bytes);
  out.name("free_bytes").value(sample.capacity_bytes - sample.used_bytes);
  out.name("backed_bytes").value(sample.backed_bytes);
  out.name("keys").value(sample.keys);
  out.name("retained_keys").value(sample.retained_keys);
  out.name("dead_nodes").value(sample.dead_nodes);
  out.name("lock_repairs").value(sample.lock_repairs);
  write_pin(out, "oldest_pin", picture.oldest_pin);
  out.name("workers");
  out.item();
  out.open('[');
  for (const WorkerRow& row : picture.workers) write_worker(out, row);
  out.close(']');
  out.close('}');
  return out.take();
}

}  // namespace theus::top
