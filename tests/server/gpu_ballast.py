"""Holds the memory of a GPU but for some MiB, until its input ends. Only the driver's library is needed.

usage: gpu_ballast.py INDEX MIB_LEFT
"""
import ctypes
import sys

PIECES = (1 << 30, 64 << 20, 2 << 20)  # what is left is hit within the smallest


def call(cuda, name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        sys.exit(f"{name} failed with {code}")


def memory_free(cuda):
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    call(cuda, "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value


def main():
    index, left = int(sys.argv[1]), int(sys.argv[2]) << 20
    cuda, device, context, held = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p(), 0
    call(cuda, "cuInit", 0)
    call(cuda, "cuDeviceGet", ctypes.byref(device), index)
    call(cuda, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call(cuda, "cuCtxSetCurrent", context)
    for piece in PIECES:
        while memory_free(cuda) >= left + piece:
            address = ctypes.c_uint64()
            if cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(piece)):
                break
            held += piece
    print(f"{held >> 20} {memory_free(cuda) >> 20}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
