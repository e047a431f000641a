# The plugin for NVIDIA GPUs, its very objects, with a runtime whose calls fail when a test says so:
# faults_test.py. It lies in a folder of its own, for SD35_PLUGIN_DIR. Included where that plugin is
# made: CMake knows CUDA nowhere else.
set(faulty_folder ${PROJECT_BINARY_DIR}/tests/device)

# Of the plugin alone, whose objects are therefore bound before the runtime's and the project's
# libraries, which allocate by the same names.
set(c_calls malloc calloc reallocarray strdup strndup asprintf realpath)
set(runtime_calls
  cudaMalloc cudaMallocAsync cudaMallocHost cudaMallocManaged cudaHostAlloc
  cudaStreamCreateWithFlags cudaStreamCreateWithPriority cudaEventCreate cudaEventCreateWithFlags
  cudaGraphInstantiate
  __cudaLaunchKernel cudaLaunchKernelExC cudaGraphLaunch cudaFuncSetAttribute
  cudaStreamBeginCapture cudaStreamEndCapture cudaStreamIsCapturing
  cudaDeviceSynchronize cudaStreamSynchronize cudaStreamWaitEvent cudaEventRecord
  cudaEventSynchronize cudaEventElapsedTime cudaMemcpyAsync cudaMemset cudaMemsetAsync
  cudaFreeAsync cudaMemGetInfo cudaPointerGetAttributes cudaGetLastError)
list(TRANSFORM c_calls PREPEND --wrap=)
list(TRANSFORM runtime_calls PREPEND -Wl,--wrap=)

set(faulty_object ${faulty_folder}/faulty_objects.o)
file(MAKE_DIRECTORY ${faulty_folder})
add_custom_command(
  OUTPUT ${faulty_object}
  COMMAND ${CMAKE_LINKER} -r ${c_calls} -o ${faulty_object} $<TARGET_OBJECTS:sd35_cuda_c>
  DEPENDS $<TARGET_OBJECTS:sd35_cuda_c>
  COMMAND_EXPAND_LISTS VERBATIM)

add_library(faulty_backend_cuda MODULE ${CMAKE_CURRENT_LIST_DIR}/faulty_cuda.c ${faulty_object})
sd35_target_flags(faulty_backend_cuda)
target_compile_options(faulty_backend_cuda PRIVATE -fvisibility=hidden)
target_include_directories(faulty_backend_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
set_target_properties(faulty_backend_cuda PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${faulty_folder})
sd35_cuda_plugin(faulty_backend_cuda)
target_link_options(faulty_backend_cuda PRIVATE ${runtime_calls})
