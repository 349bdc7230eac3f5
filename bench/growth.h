// The benchmarks whose size depends on the command line.
#pragma once

namespace theus::bench {

// 10 thousand and 1 million leaves; `large`: 10 million as well.
void register_growth(bool large);

}  // namespace theus::bench
