// A picture as lines of text.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "tools/top/picture.h"

namespace theus::top {

struct Page {
  std::vector<std::string> lines;  // without line ends
  std::size_t head = 0;            // index of the line that names the columns
};

// Lines of at most `width` columns; at most `height` lines, the last of which then says how many
// workers are not shown. 0: no limit. Pure.
Page lay_out(const Picture& picture, std::size_t width, std::size_t height);

}  // namespace theus::top
