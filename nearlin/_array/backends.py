"""Which backend an array belongs to, where it lives, and the ways between backends and NumPy."""

import contextlib
import functools
import importlib
import inspect
from typing import NamedTuple

import array_api_compat as compat
import numpy as np

NAMES = ("numpy", "cupy", "torch", "array_api_strict")


class BackendError(TypeError):
    """Arrays of two backends, devices or dtypes met in one call, or a backend cannot be used."""


_NUMPY, _PLAIN = compat.array_namespace(np.empty(0)), {np.ndarray}


def namespace(*arrays):
    """The array API namespace shared by ``arrays``; `BackendError` where there is none."""
    if set(map(type, arrays)) == _PLAIN:  # the general answer takes longer than a small operation
        return _NUMPY
    try:
        return compat.array_namespace(*arrays)
    except TypeError as error:
        kinds = ", ".join(sorted({type(a).__module__.split(".")[0] + "." + type(a).__name__ for a in arrays}))
        raise BackendError(f"expected arrays of one array-API backend, found {kinds}") from error


def device(x):
    """The device that ``x`` lives on; `BackendError` for a CuPy array elsewhere than on the current one, where CuPy works."""
    if type(x) is np.ndarray:
        return "cpu"
    own = compat.device(x)
    if compat.is_cupy_array(x) and own != (current := importlib.import_module("cupy").cuda.Device()):
        found = f"found a {describe(x)}, while CuPy works on {current}"
        raise BackendError(f"{found}; expected an array there: enter its device first, by 'with x.device:'")
    return own


def is_array(x):
    """Whether ``x`` is an array of some array-API backend (a list or a number is not)."""
    return type(x) is np.ndarray or compat.is_array_api_obj(x)


def is_numpy(x):
    """Whether ``x`` is a plain NumPy array."""
    return type(x) is np.ndarray or compat.is_numpy_array(x)


def describe(x):
    """A few words about an array, for error messages: ``float32 numpy array of shape (3, 4) on cpu``."""
    if not is_array(x):
        return type(x).__name__
    return f"{str(x.dtype).split('.')[-1]} {backend_name(x)} array of shape {tuple(x.shape)} on {compat.device(x)}"


def _writes(x):
    return is_numpy(x) or compat.is_cupy_array(x) or compat.is_torch_array(x)


def abs_in_place(x):
    """|x|, in the memory of ``x`` where its backend writes there."""
    return namespace(x).abs(x, **({"out": x} if _writes(x) else {}))


def clipped(x, low, high):
    """The entries of ``x`` between two numbers; array_api_compat's clip of a CuPy array reads back, again and again."""
    xp = namespace(x)
    return xp.minimum(xp.maximum(x, low), high) if compat.is_cupy_array(x) else xp.clip(x, low, high)


def into(out, operation, *operands):
    """``out[...] = operation(*operands)`` for a function of the array API by name; straight into ``out`` where possible."""
    if _writes(out):
        getattr(namespace(out), operation)(*operands, out=out)
    else:
        out[...] = getattr(namespace(out), operation)(*operands)


class Unmade(NamedTuple):
    """Stands for an array where only its shape, its dtype, and whether it would live on a GPU matter."""

    shape: tuple
    dtype: np.dtype
    on_gpu: bool


def on_gpu(x):
    """Whether ``x`` lives on a GPU, where a launch costs more than a small operation and a number read back waits for all."""
    if isinstance(x, np.ndarray | np.generic | float):
        return False
    if isinstance(x, Unmade):
        return x.on_gpu
    return compat.is_cupy_array(x) or (compat.is_torch_array(x) and x.device.type == "cuda")


def itemsize(dtype):
    """Bytes of a number in float32 or float64, as a backend has them or by name."""
    return dtype.itemsize if isinstance(dtype, np.dtype) else 8 if "64" in str(dtype) else 4


def backend_name(x):
    """``numpy``, ``cupy``, ``torch``, ... of an array."""
    return namespace(x).__name__.replace("array_api_compat.", "").split(".")[0]


def asarray(a, *, like, dtype=None):
    """``a`` (an array of any backend, or nested numbers) next to ``like``: its backend and device; the one explicit converter.

    The dtype is ``dtype``, or that of ``like``.
    """
    xp = namespace(like)
    host = to_numpy(a) if is_array(a) else np.asarray(a)
    return xp.asarray(host.astype(str(dtype or like.dtype).split(".")[-1], copy=True), device=device(like))


def refuse_masked(name, x):
    """`TypeError` for a masked array: every conversion drops its mask in silence."""
    if isinstance(x, np.ma.MaskedArray):
        expected = "expected a plain array: fill it (numpy.ma.filled), or leave those rows out"
        raise TypeError(f"{name} is a masked array, whose mask would be lost; {expected}")


def to_numpy(x):
    """``x`` as a NumPy array; the explicit way back from every backend and device."""
    refuse_masked("the array", x)
    if is_numpy(x) or isinstance(x, np.generic | float | int):
        return np.asarray(x)
    if compat.is_cupy_array(x):
        return x.get()
    if compat.is_torch_array(x):
        return x.detach().cpu().numpy()
    if hasattr(x, "to_device") and backend_name(x) == "array_api_strict":
        return np.asarray(x.to_device(namespace(x).Device("CPU_DEVICE")))
    if hasattr(x, "to_numpy"):
        return x.to_numpy()
    return np.asarray(x)


def current_stream(x):
    """The stream by which this thread gives the GPU of ``x`` its work; each thread has a device and a stream of its own."""
    if compat.is_cupy_array(x):
        return importlib.import_module("cupy").cuda.get_current_stream()
    return importlib.import_module("torch").cuda.current_stream(x.device)


@contextlib.contextmanager
def on_stream(stream, x):
    """A context in which this thread works on the GPU of ``x`` by ``stream``."""
    if compat.is_torch_array(x):
        with importlib.import_module("torch").cuda.stream(stream):
            yield
    else:
        with x.device, stream:
            yield


def synchronize(x):
    """Wait until the device of ``x`` has finished: GPU calls return before their work is done."""
    if compat.is_cupy_array(x):
        with x.device:
            importlib.import_module("cupy").cuda.get_current_stream().synchronize()
    elif compat.is_torch_array(x) and x.device.type == "cuda":
        importlib.import_module("torch").cuda.synchronize(x.device)


@functools.cache
def cupy_unusable():
    """Why CuPy cannot be used here, or None. A CuPy wheel imports fine without a driver, so that import proves nothing."""
    try:
        cupy = importlib.import_module("cupy")
        if not cupy.cuda.is_available():
            return "cupy is installed but there is no usable CUDA device"
        importlib.import_module("cupyx.scipy.linalg")
        cupy.zeros(1) + 1
    except ImportError as error:
        return f"missing: {str(error).splitlines()[0]}"
    except Exception as error:  # a broken driver raises errors of many kinds, and none may break `import nearlin`
        return f"CUDA unusable: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def unusable(name):
    """Why the backend called ``name`` cannot be used here, or None."""
    if name not in NAMES:
        return f"unknown backend {name!r}; expected one of {', '.join(NAMES)}"
    if name == "cupy":
        return cupy_unusable()
    try:
        importlib.import_module(name)
    except ImportError as error:
        return f"missing: {str(error).splitlines()[0]}"
    return None


def prototype(name, dtype="float64"):
    """An empty array of the backend called ``name``, to be passed as ``like``."""
    if reason := unusable(name):
        raise BackendError(f"backend {name!r} cannot be used: {reason}")
    module = importlib.import_module(name)
    xp = namespace(module.empty(0))
    on_gpu = name == "torch" and module.cuda.is_available()
    return xp.empty((0,), dtype=getattr(xp, dtype), device="cuda" if on_gpu else None)


def widest(x):
    """float64 of the namespace of ``x`` where its device has it, else the dtype of ``x``."""
    kinds = namespace(x).__array_namespace_info__().dtypes(device=device(x), kind="real floating")
    return kinds.get("float64", x.dtype)


def unguarded():
    """A context in which NumPy overflows without a warning, as other backends do: for results that are looked at."""
    return np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")


def unguarded_methods(cls):
    """A class whose public methods, as they stand in its body, are `unguarded`."""
    for name, method in list(vars(cls).items()):
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(cls, name, unguarded()(method))
    return cls
