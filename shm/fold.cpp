#include "shm/fold.h"

#include <cmath>

namespace theus::shm {
namespace {

constexpr double kBeyond = 9223372036854775808.0;  // 2^63, the first double above every int64

bool less(std::int64_t a, double b) {
  if (std::isnan(b)) return false;
  if (b >= kBeyond) return true;
  if (b < -kBeyond) return false;
  const auto whole = static_cast<std::int64_t>(b);  // towards zero; exactly representable
  return a != whole ? a < whole : static_cast<double>(whole) < b;
}

bool less(double a, std::int64_t b) {
  if (std::isnan(a)) return false;
  if (a >= kBeyond) return false;
  if (a < -kBeyond) return true;
  const auto whole = static_cast<std::int64_t>(a);
  return whole != b ? whole < b : a < static_cast<double>(whole);
}

bool less(const Number& a, const Number& b) {
  if (a.is_real && b.is_real) return a.real < b.real;
  if (a.is_real) return less(a.real, b.integer);
  if (b.is_real) return less(a.integer, b.real);
  return a.integer < b.integer;
}

bool is_nan(const Number& number) { return number.is_real && std::isnan(number.real); }

double as_real(const Number& number) {
  return number.is_real ? number.real : static_cast<double>(number.integer);
}

}  // namespace

std::optional<Number> fold(Fold how, Number now, Number operand) {
  switch (how) {
    case Fold::kAdd: {
      if (now.is_real || operand.is_real) return Number::of(as_real(now) + as_real(operand));
      std::int64_t sum = 0;
      if (__builtin_add_overflow(now.integer, operand.integer, &sum)) return std::nullopt;
      return Number::of(sum);
    }
    case Fold::kMaximum:
      return is_nan(now) || less(now, operand) ? operand : now;
    case Fold::kMinimum:
      return is_nan(now) || less(operand, now) ? operand : now;
    case Fold::kNone:
      break;
  }
  return operand;
}

}  // namespace theus::shm
