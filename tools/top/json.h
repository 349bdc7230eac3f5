// A picture as one JSON object. The field names are listed in the help text (options.cpp) and stay.
#pragma once

#include <string>

#include "tools/top/picture.h"

namespace theus::top {

// Without a line end. Pure.
std::string to_json(const Picture& picture, double time_unix_s);

}  // namespace theus::top
