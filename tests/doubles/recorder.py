"""The forms of calls, without their numbers: null_device/replay.py asks the real CuPy whether it takes them.

A form is a tuple of names and plain values, a line of text that `ast.literal_eval` reads.
"""

import atexit
import functools
import os
import threading
import types
from pathlib import Path

import numpy as np

from tests.doubles.arrays import ndarray
from tests.doubles.devices import Device
from tests.doubles.kernels import ElementwiseKernel

METHODS = {
    *(
        "getitem",
        "setitem",
        "float",
        "int",
        "bool",
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "mod",
        "pow",
        "matmul",
        "and",
        "or",
    ),
    *("xor", "lshift", "rshift", "neg", "abs", "invert", "lt", "le", "gt", "ge", "eq", "ne", "pos", "copy"),
    *("radd", "rsub", "rmul", "rtruediv", "rpow", "rmatmul", "iadd", "isub", "imul", "itruediv", "ipow", "imatmul"),
}
_thread = threading.local()


def form(x):
    """What ``x`` is; its numbers only where it is a Python number."""
    if isinstance(x, ndarray | np.ndarray):
        order = "C" if x.flags.c_contiguous else "F" if x.flags.f_contiguous else "strided"
        return "array" if isinstance(x, ndarray) else "host", x.dtype.name, x.shape, order
    if isinstance(x, tuple | list):
        return type(x).__name__, *map(form, x)
    if isinstance(x, slice):
        return "slice", form(x.start), form(x.stop), form(x.step)
    if isinstance(x, np.generic):
        return "scalar", x.dtype.name
    if isinstance(x, type):
        return "type", x.__name__
    if isinstance(x, np.dtype):
        return "dtype", x.name
    if isinstance(x, float):
        return ("float",)
    if isinstance(x, Device):
        return "device", x.id
    if x is Ellipsis:
        return ("ellipsis",)
    if x is None or isinstance(x, int | str):
        return "value", x
    return "other", type(x).__name__


class Recorder:
    """Notes the calls that succeed and are not made by another one, each form once."""

    def __init__(self):
        self.forms = set()

    def noting(self, name, call, made_with=()):
        """``call``, which is noted under ``name``."""

        @functools.wraps(call)
        def noted(*args, **kwargs):
            if getattr(_thread, "inside", False):
                return call(*args, **kwargs)
            given = name, form(made_with), form(args), tuple((key, form(value)) for key, value in sorted(kwargs.items()))
            _thread.inside = True
            try:
                result = call(*args, **kwargs)
            finally:
                _thread.inside = False
            self.forms.add(repr(given))
            return result

        return noted

    def attach(self, modules):
        """Note the calls of the functions of ``modules``, by name, of the methods of arrays, and of kernels."""
        for module in modules.values():
            for name, call in list(vars(module).items()):
                if callable(call) and not isinstance(call, type) and not isinstance(call, types.ModuleType):
                    setattr(module, name, self.noting(f"{module.__name__}.{name}", call))
        for name, method in list(vars(ndarray).items()):
            if callable(method) and (not name.startswith("_") or name.strip("_") in METHODS):
                setattr(ndarray, name, self.noting(f"cupy.ndarray.{name}", method))
        recorder = self

        class Noted(ElementwiseKernel):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self._noted = recorder.noting("cupy.ElementwiseKernel", super().__call__, (args, *sorted(kwargs.items())))

            def __call__(self, *args):
                return self._noted(*args)

        modules["cupy"].ElementwiseKernel = Noted

    def write_at_exit(self, folder):
        """Write the forms, a line each, into a file of this process."""
        path = Path(folder) / f"calls-{os.getpid()}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        atexit.register(lambda: path.write_text("".join(f"{line}\n" for line in sorted(self.forms))))
