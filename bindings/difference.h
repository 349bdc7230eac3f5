// State.diff().
#pragma once

#include <pybind11/pybind11.h>

namespace theus::bindings {

void bind_difference(pybind11::module_& module);

}  // namespace theus::bindings
