# The CPU backend's kernels, compiled once for each feature level (cpu_kernels.h).

target_sources(sd35_backend PRIVATE cpu/cpu_features.c cpu/cpu_ops.c cpu/loop.c)

# Products: what the levels of 16-bit products have of their own.
set(SD35_CPU_PRODUCTS cpu/conv2d.c cpu/gemm_driver.c cpu/gemm_pack.c cpu/linear.c)
set(SD35_CPU_KERNELS
    ${SD35_CPU_PRODUCTS}
    cpu/attention.c
    cpu/copy.c
    cpu/elementwise.c
    cpu/embeddings.c
    cpu/gemm_kernel_f32.c
    cpu/level_ops.c
    cpu/norms.c)

set(SD35_AVX2_FLAGS -mavx2 -mfma -mf16c)
# GCC prefers 256-bit vectors unless told.
set(SD35_AVX512_FLAGS ${SD35_AVX2_FLAGS} -mavx512f -mavx512bw -mavx512vl -mavx512dq
                      -mprefer-vector-width=512)

# sd35_cpu_level(NAME FLAGS ... SOURCES ...)
function(sd35_cpu_level level)
  cmake_parse_arguments(ARG "" "" "FLAGS;SOURCES" ${ARGN})
  add_library(sd35_cpu_${level} OBJECT ${ARG_SOURCES})
  target_include_directories(sd35_cpu_${level} PRIVATE ${PROJECT_SOURCE_DIR}/src)
  target_compile_definitions(sd35_cpu_${level} PRIVATE CPU_LEVEL=${level})
  sd35_target_flags(sd35_cpu_${level})
  target_compile_options(sd35_cpu_${level} PRIVATE ${ARG_FLAGS})
  target_sources(sd35_backend PRIVATE $<TARGET_OBJECTS:sd35_cpu_${level}>)
endfunction()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  sd35_cpu_level(avx2 FLAGS ${SD35_AVX2_FLAGS} SOURCES ${SD35_CPU_KERNELS})
  sd35_cpu_level(avx512 FLAGS ${SD35_AVX512_FLAGS} SOURCES ${SD35_CPU_KERNELS})
  sd35_cpu_level(avx512_bf16 FLAGS ${SD35_AVX512_FLAGS} -mavx512bf16
                 SOURCES ${SD35_CPU_PRODUCTS} cpu/gemm_kernel_bf16.c)
  sd35_cpu_level(avx512_fp16 FLAGS ${SD35_AVX512_FLAGS} -mavx512fp16
                 SOURCES ${SD35_CPU_PRODUCTS} cpu/gemm_kernel_fp16.c)
  sd35_cpu_level(amx FLAGS ${SD35_AVX512_FLAGS} -mavx512bf16 -mamx-tile -mamx-bf16
                 SOURCES ${SD35_CPU_PRODUCTS} cpu/gemm_kernel_amx.c)
endif()
