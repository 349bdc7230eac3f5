#include "tools/top/format.h"

#include <array>
#include <cmath>
#include <cstdio>

namespace theus::top {
namespace {

template <class... Values>
std::string printed(const char* format, Values... values) {
  char text[64];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

// Three significant digits of a value below 1000; what would be printed as 1000 is for the caller.
std::string three_digits(double value) {
  return printed(value < 9.995 ? "%.2f" : value < 99.95 ? "%.1f" : "%.0f", value);
}

constexpr double kRoundsToThousand = 999.5;

}  // namespace

std::string short_number(double value) {
  static constexpr std::array<const char*, 5> kUnits = {"", "k", "M", "G", "T"};
  if (!(value > 0)) return "0";
  std::size_t unit = 0;
  while (value >= kRoundsToThousand && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  if (unit > 0) return three_digits(value) + kUnits[unit];
  // Rates below 10 come from a handful of events: a second decimal would only be noise.
  return value < 0.095 ? printed("%.2f", value) : printed(value < 9.95 ? "%.1f" : "%.0f", value);
}

std::string short_bytes(std::uint64_t bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return printed("%.0f B", static_cast<double>(bytes));
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= kRoundsToThousand && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return three_digits(value) + " " + kUnits[unit];
}

std::string short_seconds(double seconds) {
  if (!(seconds > 0)) return "0.0s";
  if (seconds < 99.95) return printed("%.1fs", seconds);
  const auto whole = static_cast<unsigned long long>(seconds < 1e15 ? seconds : 1e15);
  if (whole < 3600) return printed("%llum%02llus", whole / 60, whole % 60);
  if (whole < 86400) return printed("%lluh%02llum", whole / 3600, whole / 60 % 60);
  return printed("%llud%02lluh", whole / 86400, whole / 3600 % 24);
}

std::string percent(std::optional<double> share) {
  if (!share) return "-";
  const double value = *share * 100;
  return printed(value < 99.95 ? "%.1f%%" : "%.0f%%", value);
}

std::string grouped(std::uint64_t value) {
  const std::string digits = std::to_string(value);
  std::string result;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) result += ',';
    result += digits[i];
  }
  return result;
}

std::size_t columns(const std::string& text) {
  std::size_t count = 0;
  for (const char byte : text) count += (static_cast<unsigned char>(byte) & 0xC0) != 0x80;
  return count;
}

std::string cut(const std::string& text, std::size_t width) {
  if (columns(text) <= width) return text;
  if (width == 0) return "";
  std::size_t column = 0;
  std::size_t end = 0;
  for (; end < text.size(); ++end) {
    const bool starts = (static_cast<unsigned char>(text[end]) & 0xC0) != 0x80;
    if (starts && column++ == width - 1) break;
  }
  return text.substr(0, end) + "~";
}

std::string left(const std::string& text, std::size_t width) {
  const std::string fits = cut(text, width);
  return fits + std::string(width - columns(fits), ' ');
}

std::string right(const std::string& text, std::size_t width) {
  const std::string fits = cut(text, width);
  return std::string(width - columns(fits), ' ') + fits;
}

}  // namespace theus::top
