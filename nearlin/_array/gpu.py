"""What is known of the GPU that arrays live on."""

import importlib
import os
from pathlib import Path

import array_api_compat as compat

from nearlin._array.backends import on_gpu
from nearlin._array.memory import memory_next_to

FAST_FLOAT64 = {(3, 5), (3, 7), (6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}  # compute capabilities; all others have 1/16 or less


def card(x):
    """The name of the GPU that ``x`` lives on, None on a CPU."""
    return _properties(x)[0] if on_gpu(x) else None


def slow_float64(x):
    """Whether ``x`` lives on a GPU that does float64 at a sixteenth of the speed of float32, or slower.

    By its compute capability: CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions".
    """
    return on_gpu(x) and _properties(x)[1] not in FAST_FLOAT64


def gpu_facts(x):
    """The GPU of ``x`` as plain values, None on a CPU: card and its abilities, free bytes, CUDA, number, kernel cache.

    ``cuda`` has versions of driver and runtime, or of what PyTorch was built for; the cache is CuPy's, a folder and how many
    kernels it holds. Free are the bytes after pools have given back what they keep.
    """
    if not on_gpu(x):
        return None
    name, capability = _properties(x)
    facts = {"card": name, "capability": ".".join(map(str, capability)), "slow_float64": slow_float64(x)}
    facts["free"] = memory_next_to(x)
    if compat.is_torch_array(x):
        torch = importlib.import_module("torch")
        number = f"{x.device.index} of {torch.cuda.device_count()}"
        return facts | {"cuda": f"built for {torch.version.cuda}", "number": number, "cache": None}
    runtime = importlib.import_module("cupy").cuda.runtime
    driver, own = (_version(get()) for get in (runtime.driverGetVersion, runtime.runtimeGetVersion))
    number = f"{x.device.id} of {runtime.getDeviceCount()}"
    return facts | {"cuda": f"driver {driver}, runtime {own}", "number": number, "cache": _kernel_cache()}


def _properties(x):
    """Name and compute capability of the GPU of ``x``."""
    if compat.is_torch_array(x):
        found = importlib.import_module("torch").cuda.get_device_properties(x.device)
        return found.name, (found.major, found.minor)
    found = importlib.import_module("cupy").cuda.runtime.getDeviceProperties(x.device.id)
    return found["name"].decode(), (found["major"], found["minor"])


def _version(number):
    """12.9 for 12090."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _kernel_cache():
    """Where CuPy keeps compiled kernels, and how many it has there."""
    folder = Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")
    return f"{folder}, {len(list(folder.glob('*.cubin')))} kernels"
