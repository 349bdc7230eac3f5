// theus_bench [--large] [Google Benchmark's options]
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstring>

#include "bench/growth.h"

int main(int argc, char** argv) {
  bool large = false;
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--large") == 0) {
      large = true;
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  theus::bench::register_growth(large);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    std::fprintf(stderr, "theus_bench's own option: --large (10 million leaves, about 3 GiB)\n");
    return 1;
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
