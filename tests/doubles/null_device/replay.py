"""Ask the real CuPy whether it takes the calls that were recorded on the double, on a device that computes nothing.

    python -m pytest --backend cupy --double --record FOLDER ...
    python tests/doubles/null_device/replay.py FOLDER

The second one in an environment that has the wheel of CuPy. A call that runs was taken, and one that ends where a library of CUDA
is not at hand was taken that far; every other error is one that a GPU would have shown, and makes the exit code 1.
"""

import ast
import builtins
import importlib
import sys
import warnings
from collections import Counter
from pathlib import Path

import device

ROWS = ("array", "float32", (2, 3), "C")
REFUSED = (  # or else nothing is proved
    ("cupy.sum", ("tuple",), ("tuple", ("list", ("float",))), ()),
    ("cupy.concatenate", ("tuple",), ("tuple", ("list", ROWS, ("host", "float32", (2, 3), "C"))), ()),
    ("cupy.ndarray.__sub__", ("tuple",), ("tuple", ("array", "bool", (2,), "C"), ("array", "bool", (2,), "C")), ()),
    ("cupy.sum", ("tuple",), ("tuple", ROWS), (("axes", ("value", 0)),)),
)
SORTS = "failed inside CUB: cudaErrorInvalidDevice", "radix_sort: failed"  # whose own runtime finds no device
MISSING = ("libcu", "libnv", "CUDA driver", "NOT_INITIALIZED", "InsufficientDriver", *SORTS)


def array(dtype, shape, order):
    """Zeros of a form."""
    import cupy

    if order == "strided" and len(shape) >= 2 and 0 not in shape:
        return cupy.ndarray((*shape[:-1], shape[-1] + 1), dtype)[..., :-1]
    return cupy.ndarray(shape, dtype, order="F" if order == "F" else "C")


def value(form):
    """Something of this form."""
    import cupy
    import numpy as np

    kind, *of = form
    makers = {
        "array": array,
        "host": lambda dtype, shape, order: np.zeros(shape, dtype, order="F" if order == "F" else "C"),
        "tuple": lambda *parts: tuple(map(value, parts)),
        "list": lambda *parts: list(map(value, parts)),
        "slice": lambda *parts: slice(*map(value, parts)),
        "scalar": lambda dtype: np.dtype(dtype).type(1),
        "dtype": np.dtype,
        "type": lambda name: getattr(np, name, None) or getattr(builtins, name),
        "float": lambda: 0.5,
        "device": cupy.cuda.Device,
        "ellipsis": lambda: Ellipsis,
        "value": lambda plain: plain,
    }
    return makers[kind](*of)


def call(name, made_with, args, options):
    """Call the function of that name."""
    module, _, function = name.rpartition(".")
    if module == "cupy.ndarray":
        import cupy

        found = getattr(cupy.ndarray, function)
    else:
        found = getattr(importlib.import_module(module), function)
    if name == "cupy.ElementwiseKernel":
        given, *more = value(made_with)
        found = found(*given, **dict(more))
    found(*value(args), **{key: value(part) for key, part in options})


def judged(given):
    """``"taken"``, ``"no library"``, or why it was refused."""
    try:
        call(*given)
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return "no library" if any(word in said for word in MISSING) else said
    return "taken"


def main(folder):
    """Replay the calls in a folder; returns the number of those that were refused."""
    device.install()
    warnings.simplefilter("error")
    lines = sorted({line for path in Path(folder).glob("calls-*.txt") for line in path.read_text().splitlines()})
    if taken := [name for name, *given in REFUSED if judged((name, *given)) == "taken"]:
        print(f"CuPy took what it refuses: {', '.join(taken)}")
        return len(taken)
    found = {line: judged(ast.literal_eval(line)) for line in lines}
    counts = Counter(verdict if verdict in ("taken", "no library") else "refused" for verdict in found.values())
    for line, verdict in found.items():
        if verdict not in ("taken", "no library"):
            print(f"{verdict}\n    {line[:300]}")
    print(f"{len(lines)} forms of calls: " + ", ".join(f"{number} {verdict}" for verdict, number in counts.items()))
    return counts["refused"] or not lines


if __name__ == "__main__":
    sys.exit(bool(main(*sys.argv[1:])))
