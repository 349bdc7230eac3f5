// Numbers and texts for people: short, and of a known width.
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace theus::top {

// At most 5 characters from 0 to 9.99e14: 0, 0.05, 7.3, 812, 1.47k, 380k, 1.20M.
std::string short_number(double value);
// 0 B, 512 KiB, 1.50 GiB: at most 10 characters.
std::string short_bytes(std::uint64_t bytes);
// 0.0s, 12.3s, 4m05s, 2h13m, 3d04h.
std::string short_seconds(double seconds);
// 0.1%, 12.3%, 100%; "-" for nullopt.
std::string percent(std::optional<double> share);
// 1,234,567
std::string grouped(std::uint64_t value);

// Columns that UTF-8 text takes, taking each character for one.
std::size_t columns(const std::string& text);
// `text` cut to `width` columns, the last of them '~' when something was cut off.
std::string cut(const std::string& text, std::size_t width);
std::string left(const std::string& text, std::size_t width);  // cut or filled up
std::string right(const std::string& text, std::size_t width);

}  // namespace theus::top
