// Keys as this layer knows them: opaque bytes, of which a prefix is compared.
//
// What a key's bytes mean is the business of the layer above (bindings/key_codec): the compared
// prefix is the canonical form, so that keys equal in Python have equal prefixes, and what follows
// it tells how the key was spelled by whoever inserted it first.
#pragma once

#include <cstdint>
#include <string_view>

namespace theus::shm {

// Value type; does not own the bytes. size <= kMaxKeyBytes, 1 <= compared <= size.
struct KeyView {
  const char* data = nullptr;
  std::uint16_t size = 0;
  std::uint16_t compared = 0;

  constexpr KeyView() = default;
  constexpr KeyView(const char* bytes, std::uint16_t length, std::uint16_t compared_length)
      : data(bytes), size(length), compared(compared_length) {}
  // A key that is compared whole.
  constexpr explicit KeyView(std::string_view text)
      : data(text.data()),
        size(static_cast<std::uint16_t>(text.size())),
        compared(static_cast<std::uint16_t>(text.size())) {}

  constexpr std::string_view canonical() const { return {data, compared}; }
  constexpr std::string_view whole() const { return {data, size}; }
};

}  // namespace theus::shm
