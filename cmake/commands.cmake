# Targets for people: cmake --build --preset release --target check-unit, and so on.

function(sd35_check_target name label)
  add_custom_target(${name}
    COMMAND ${CMAKE_CTEST_COMMAND} --output-on-failure -L ${label}
    WORKING_DIRECTORY ${PROJECT_BINARY_DIR} USES_TERMINAL)
endfunction()

sd35_check_target(check ".*")
sd35_check_target(check-unit unit)
sd35_check_target(check-kernels kernels)
sd35_check_target(check-model model)
sd35_check_target(check-cli cli)
sd35_check_target(check-fuzz fuzz)

file(GLOB_RECURSE sd35_c_files CONFIGURE_DEPENDS
  ${PROJECT_SOURCE_DIR}/src/*.[ch] ${PROJECT_SOURCE_DIR}/tests/*.[ch]
  ${PROJECT_SOURCE_DIR}/tools/*.[ch] ${PROJECT_SOURCE_DIR}/bench/*.[ch])
add_custom_target(format COMMAND clang-format -i ${sd35_c_files} USES_TERMINAL)

# The kernels of each level are left out: the compiler's intrinsics fill the report with noise.
file(GLOB_RECURSE sd35_lint_files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/*.c)
list(FILTER sd35_lint_files EXCLUDE REGEX "/backend/cpu/")
add_custom_target(lint
  COMMAND clang-tidy --quiet -p ${PROJECT_BINARY_DIR} ${sd35_lint_files}
  COMMAND clang-format --dry-run -Werror ${sd35_c_files}
  COMMAND ${PROJECT_SOURCE_DIR}/tools/check_layers ${PROJECT_SOURCE_DIR}
  USES_TERMINAL)
