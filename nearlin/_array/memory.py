"""Memory: of freed arrays, which the C library returns to the system, to be given pages of zeros; and how much there is."""

import ctypes
import importlib
import os

import array_api_compat as compat

from nearlin._array.backends import on_gpu

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
MOST, MOST_OF_OLD = 2**30, 2**25  # bytes; older versions of glibc refuse a greater threshold than 32 MiB


def keep_freed_memory():
    """Let this process keep the memory of freed arrays for the arrays that follow, up to 1 GiB each; returns whether it does.

    A page that is new to the process costs a fault of the processor and 4 KiB of zeros: on two cores a step of SGD on VGG11 took
    30 % less without them, Adam's update of 1.4 million parameters half. It concerns all of the process, which does not shrink
    below its peak afterwards; therefore a program asks for it, not the library. The command line does. Linux with glibc
    alone; an old glibc keeps arrays of up to 32 MiB.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    kept = mallopt(MMAP_THRESHOLD, MOST) or mallopt(MMAP_THRESHOLD, MOST_OF_OLD)  # first: the other one ends glibc's own choice
    return bool(kept and mallopt(TRIM_THRESHOLD, MOST))


def memory_next_to(like):
    """Bytes that arrays next to ``like`` can take: free ones of a GPU, physical ones of a host, None where nothing tells.

    What CuPy or PyTorch keep of freed arrays on a GPU is given back first, as others do not see it as free.
    """
    if not on_gpu(like):
        return machine_memory()
    if compat.is_cupy_array(like):
        cupy = importlib.import_module("cupy")
        cupy.get_default_memory_pool().free_all_blocks()
        return cupy.cuda.Device().mem_info[0]
    cuda = importlib.import_module("torch").cuda
    cuda.empty_cache()
    return cuda.mem_get_info(like.device)[0]


def machine_memory():
    """Bytes of physical memory, or None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def resident():
    """Bytes of this process that are in physical memory, or None where the system does not tell (all but Linux)."""
    try:
        with open("/proc/self/statm") as said:
            return int(said.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
