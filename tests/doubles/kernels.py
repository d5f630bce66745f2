"""Elementwise kernels of the double: their C body is compiled by the host's compiler (``cc``)."""

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path

from tests.doubles import counters
from tests.doubles.arrays import bare

TYPES = {"uint64": ("unsigned long long", ctypes.c_uint64), "float64": ("double", ctypes.c_double), "float32": ("float", None)}
HEAD = """
#define __device__ static inline
#define __umul64hi(a, b) ((unsigned long long)(((unsigned __int128)(a) * (b)) >> 64))
"""


@functools.cache
def compiled(source):
    """The function ``run`` of a C source."""
    with tempfile.TemporaryDirectory() as folder:  # its own: processes of one run compile at the same time
        library = Path(folder) / "kernel.so"
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", library, "-x", "c", "-"]
        subprocess.run(command, input=source, text=True, check=True)
        return ctypes.CDLL(str(library)).run


class ElementwiseKernel:
    """A kernel of numbers and one output, of a named type or ``T``, which the output has."""

    def __init__(self, in_params, out_params, operation, name="kernel", preamble=""):
        self._inputs = [parameter.split() for parameter in in_params.split(", ")]
        self._output, self._operation, self._name, self._preamble = out_params.split()[1], operation, name, preamble

    def __call__(self, *args):
        *numbers, out = args
        x = bare(out)
        if len(numbers) != len(self._inputs) or not x.flags.c_contiguous:
            raise ValueError(f"{self._name} takes {len(self._inputs)} numbers and one contiguous array")
        inputs = "".join(f", {TYPES[kind][0]} {name}" for kind, name in self._inputs)
        body = f"{{ T {self._output}; {self._operation}; out[i] = {self._output}; }}"
        loop = f"void run(long n, T *out{inputs}) {{ for (long i = 0; i < n; i++) {body} }}"
        run = compiled(f"{HEAD}typedef {TYPES[x.dtype.name][0]} T;\n{self._preamble}\n{loop}\n")
        values = [
            TYPES[kind][1](number.item() if hasattr(number, "item") else number)
            for (kind, _), number in zip(self._inputs, numbers, strict=True)
        ]
        run(ctypes.c_long(x.size), ctypes.c_void_p(x.ctypes.data), *values)
        counters.launch(self._name)
        return out
