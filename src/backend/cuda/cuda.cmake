# backend_cuda.so, the plugin for NVIDIA GPUs. Built where nvcc is (SD35_CUDA AUTO), never (OFF), or
# else the configuration fails (ON). CUDA's own libraries are found while running.
set(SD35_CUDA AUTO CACHE STRING "Build the CUDA backend: AUTO, ON or OFF")
set(SD35_CUDA_ARCHITECTURES "80-real;86-real;89-real;90a-real;100-real;120-real;80-virtual" CACHE STRING
    "What the CUDA backend's kernels are compiled for")

if(SD35_CUDA STREQUAL "OFF" OR SD35_SANITIZE OR SD35_FUZZ)
  return()
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(SD35_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SD35_CUDA is ON, but there is no nvcc")
  endif()
  message(STATUS "no nvcc: the CUDA backend is left out")
  return()
endif()
set(CMAKE_CUDA_ARCHITECTURES ${SD35_CUDA_ARCHITECTURES})
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

file(GLOB sd35_cuda_c CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.c)
file(GLOB sd35_cuda_cu CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cu)

# C with the project's warnings; nvcc has its own.
add_library(sd35_cuda_c OBJECT ${sd35_cuda_c})
target_include_directories(sd35_cuda_c PRIVATE ${PROJECT_SOURCE_DIR}/src)
target_include_directories(sd35_cuda_c SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
sd35_target_flags(sd35_cuda_c)
target_compile_options(sd35_cuda_c PRIVATE -fvisibility=hidden)

add_library(sd35_cuda_cu OBJECT ${sd35_cuda_cu})
set_target_properties(sd35_cuda_cu PROPERTIES CUDA_VISIBILITY_PRESET hidden)
target_include_directories(sd35_cuda_cu PRIVATE ${PROJECT_SOURCE_DIR}/src)
target_compile_options(sd35_cuda_cu PRIVATE -Xcompiler=-Wall,-Wextra -Xfatbin=-compress-all)

# sd35_cuda_plugin(TARGET) has a module that has the C objects, or a variant of them, become a
# plugin called backend_cuda.so.
function(sd35_cuda_plugin target)
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:sd35_cuda_cu>)
  set_target_properties(${target} PROPERTIES PREFIX "" OUTPUT_NAME backend_cuda LINKER_LANGUAGE CUDA)
  target_link_libraries(${target} PRIVATE sd35_tensor sd35_base CUDA::cudart_static)
  target_link_options(${target} PRIVATE -Wl,--exclude-libs,ALL -Wl,--no-undefined
    -Wl,--build-id=sha1) # by which kept choices know their plugin
endfunction()

add_library(backend_cuda MODULE $<TARGET_OBJECTS:sd35_cuda_c>)
set_target_properties(backend_cuda PROPERTIES
                      LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/src/backend/cuda)
sd35_cuda_plugin(backend_cuda)

install(TARGETS backend_cuda LIBRARY DESTINATION lib/sd35) # where the program looks for it

if(SD35_TESTS)
  include(${PROJECT_SOURCE_DIR}/tests/device/faulty.cmake)
endif()
