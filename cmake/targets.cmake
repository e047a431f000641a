# Every target of the project is made by one of these functions, so that warnings, sanitizers and
# include paths are the same everywhere.

set(SD35_WARNINGS
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes
    -Wundef -Wvla -Wwrite-strings -Wpointer-arith)

function(sd35_target_flags target)
  target_compile_options(${target} PRIVATE ${SD35_WARNINGS} $<$<BOOL:${SD35_WERROR}>:-Werror>)
  target_compile_definitions(${target} PRIVATE _GNU_SOURCE)
  if(SD35_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${SD35_SANITIZE} -fno-omit-frame-pointer
                                             -fno-sanitize-recover=all)
    target_link_options(${target} PUBLIC -fsanitize=${SD35_SANITIZE})
  endif()
  if(SD35_FUZZ)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
    target_link_options(${target} PUBLIC -fsanitize=fuzzer-no-link)
  endif()
endfunction()

# sd35_library(NAME SOURCES a.c b.c [LINK sd35_base ...]) makes the static library sd35_NAME.
function(sd35_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_library(sd35_${name} STATIC ${ARG_SOURCES})
  target_include_directories(sd35_${name} PUBLIC ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(sd35_${name} PUBLIC ${ARG_LINK})
  sd35_target_flags(sd35_${name})
endfunction()

# sd35_program(NAME SOURCES a.c [LINK ...]) makes an executable.
function(sd35_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LINK})
  sd35_target_flags(${name})
endfunction()

# sd35_unit_test(test_NAME [LINK ...]) builds tests/unit/test_NAME.c with cmocka and registers it.
function(sd35_unit_test name)
  cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
  sd35_program(${name} SOURCES ${name}.c LINK sd35_test_support PkgConfig::CMOCKA ${ARG_LINK})
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS unit TIMEOUT 300)
endfunction()
