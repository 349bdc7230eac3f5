# What every target of the project has in common.

add_library(theus_options INTERFACE)
target_include_directories(theus_options INTERFACE "${PROJECT_SOURCE_DIR}")
target_compile_options(theus_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow)
if(THEUS_WERROR)
  target_compile_options(theus_options INTERFACE -Werror)
endif()

if(THEUS_SANITIZE)
  add_compile_options(-fsanitize=${THEUS_SANITIZE} -fno-sanitize-recover=all
                      -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${THEUS_SANITIZE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Instrumented code makes GCC warn of uninitialised values that are not there, and of every
    # atomic_thread_fence under -fsanitize=thread.
    target_compile_options(theus_options INTERFACE -Wno-maybe-uninitialized -Wno-tsan)
  endif()
endif()

# theus_sources(VARIABLE PATTERN...)
# Lists a folder's sources; CONFIGURE_DEPENDS picks up new files at the next build.
function(theus_sources variable)
  list(TRANSFORM ARGN PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/" OUTPUT_VARIABLE patterns)
  file(GLOB files CONFIGURE_DEPENDS ${patterns})
  set(${variable} ${files} PARENT_SCOPE)
endfunction()

# theus_ready(VARIABLE NAME SOURCES TARGET...)
# True when the list named SOURCES is not empty and every target that is to be linked to exists.
function(theus_ready variable name list_name)
  set(${variable} ON PARENT_SCOPE)
  if(NOT ${list_name})
    message(STATUS "${name}: skipped, it has no sources")
    set(${variable} OFF PARENT_SCOPE)
    return()
  endif()
  foreach(target IN LISTS ARGN)
    if(NOT TARGET ${target})
      message(STATUS "${name}: skipped, it needs ${target}")
      set(${variable} OFF PARENT_SCOPE)
    endif()
  endforeach()
endfunction()

# theus_install_program(TARGET)
# Into the scripts folder of a wheel, so that pip puts it on the PATH; into bin otherwise.
function(theus_install_program target)
  if(SKBUILD)
    install(TARGETS ${target} RUNTIME DESTINATION "${SKBUILD_SCRIPTS_DIR}")
  else()
    install(TARGETS ${target} RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
  endif()
endfunction()
