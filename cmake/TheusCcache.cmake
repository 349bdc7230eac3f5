# Compiles through ccache where it is installed. The same sources are built into several trees
# (release, the wheel), so the cache is told to ignore where a tree lies.
find_program(THEUS_CCACHE ccache)
mark_as_advanced(THEUS_CCACHE)
if(THEUS_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Without these sloppiness flags ccache declines every file that uses a precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      "${CMAKE_COMMAND}" -E env
      "CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime"
      "CCACHE_BASEDIR=${PROJECT_SOURCE_DIR}"
      "CCACHE_NOHASHDIR=1"
      "${THEUS_CCACHE}")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Lets ccache see the precompiled header in the preprocessed output.
    add_compile_options(-fpch-preprocess)
  elseif(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    # A header restored from the cache has a new time stamp, which Clang would refuse.
    add_compile_options("SHELL:-Xclang -fno-pch-timestamp")
  endif()
endif()
