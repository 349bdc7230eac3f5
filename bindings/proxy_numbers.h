// The slots for operators (+, |=, int(), ...) of proxies.
#pragma once

#include <vector>

#include "bindings/proxy.h"
#include "bindings/view.h"

namespace theus::bindings {

void add_number_slots(std::vector<PyType_Slot>* slots);

}  // namespace theus::bindings
