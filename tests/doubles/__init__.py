"""A double of CuPy, so that the branches for CuPy run without a GPU: NumPy's numbers under CuPy's rules.

`install` puts it where ``import cupy`` finds it, under the real wrapper of array_api_compat. Names and parameters are those of
the real package (cupy_signatures.txt); what differs from NumPy is written out in `arrays`, `functions` and `linalg`; `counters`
counts launches, synchronisations and copies. Elementwise kernels are compiled by a C compiler, ``cc``.
"""

import importlib.util
import shutil
import sys
import types

import numpy as np

from tests.doubles import arrays, devices, functions, kernels, linalg, operators, recorder, signatures


def _module(name, members):
    module = types.ModuleType(name)
    vars(module).update(members)
    module.__all__ = sorted(key for key in members if not key.startswith("_"))
    return module


def modules():
    """Name -> module, for ``sys.modules``."""
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: devices.DEVICES, CUDARuntimeError=devices.CUDARuntimeError, runtimeGetVersion=lambda: 12090,
        driverGetVersion=lambda: 12090, getDeviceProperties=lambda device: {"name": b"double", "major": 9, "minor": 0},
    )  # fmt: skip
    cuda = _module(
        "cupy.cuda",
        {"Device": devices.Device, "Stream": devices.Stream, "is_available": lambda: True, "runtime": runtime}
        | {"get_current_stream": devices.current_stream},
    )
    algebra = {own.__name__: own for own in linalg.OWN} | {"LinAlgError": linalg.LinAlgError}
    names = functions.namespace()
    operators.attach(names)
    listed = functions.namespace("cupy.linalg", np.linalg) | algebra | {"matmul": names["matmul"]}
    found = [
        _module("cupy.linalg", listed),
        _module("cupy.fft", functions.namespace("cupy.fft", np.fft)),
        cuda,
        _module("cupy.cuda.device", {"Device": devices.Device}),
        _module("cupyx", {"errstate": linalg.errstate}),
        _module("cupyx.scipy", {}),
        _module("cupyx.scipy.linalg", {"solve_triangular": linalg.solve_triangular}),
    ]
    by_name = {module.__name__: module for module in found}
    cupy = names | {
        "ndarray": arrays.ndarray,
        "newaxis": None,
        "cuda": cuda,
        "get_default_memory_pool": devices.get_default_memory_pool,
        "ElementwiseKernel": kernels.ElementwiseKernel,
        "__version__": f"{signatures.version()}.double",
    }
    cupy |= {"linalg": by_name["cupy.linalg"], "fft": by_name["cupy.fft"]}
    return by_name | {"cupy": _module("cupy", cupy)}


def install(record=None):
    """Put the double where ``import cupy`` finds it; `RuntimeError` where a real CuPy is, or no C compiler.

    With ``record``, a folder, the forms of all calls are written there when the process ends.
    """
    if importlib.util.find_spec("cupy"):
        raise RuntimeError("a real CuPy is installed; expected none beside the double")
    if not shutil.which("cc"):
        raise RuntimeError("there is no C compiler cc; expected one, for the elementwise kernels")
    found = modules()
    if record:
        calls = recorder.Recorder()
        calls.attach(found)
        calls.write_at_exit(record)
    sys.modules.update(found)
