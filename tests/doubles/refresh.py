"""Write cupy_signatures.txt from the CuPy wheel that is installed (no GPU is needed), and print what changed.

python tests/doubles/refresh.py
"""

import ast
import difflib
import importlib
import inspect
from pathlib import Path

FILE = Path(__file__).with_name("cupy_signatures.txt")
HEAD = """\
# CuPy {version}: its public names and their parameters, a line a name (a default is ...), written by refresh.py.
# CuPy is distributed under the MIT licence, (c) Preferred Infrastructure, Inc. and Preferred Networks, Inc.
"""
MODULES = ("cupy", "cupy.linalg", "cupy.fft")


def parameters(function):
    """The parameters of a function, every default as ``...``; None where they cannot be known."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    plain = [p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else ...) for p in found]
    return str(inspect.Signature(plain)).replace("Ellipsis", "...")


def line(module, name, value):
    """The line of one name."""
    import cupy
    import numpy as np

    where = f"{module}.{name}"
    if isinstance(value, cupy.ufunc):
        return f"{where} ufunc {' '.join(value.types)}"
    if inspect.isclass(value):
        return f"{where} {'dtype' if issubclass(value, np.generic) and getattr(np, name, None) is value else 'other'}"
    if not callable(value):
        return f"{where} constant"
    return f"{where}{text}" if (text := parameters(value)) else f"{where} other"


def triangular():
    """The line of ``cupyx.scipy.linalg.solve_triangular``, from its source: its module imports beside cuBLAS alone."""
    import cupyx

    tree = ast.parse((Path(cupyx.__file__).parent / "scipy/linalg/_solve_triangular.py").read_text())
    (found,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "solve_triangular"]
    found.args.defaults = [ast.Constant(...)] * len(found.args.defaults)
    return f"cupyx.scipy.linalg.solve_triangular({ast.unparse(found.args)})"


def lines():
    """All lines, in order."""
    import cupy

    found = []
    for module in MODULES:
        names = {name: value for name, value in vars(importlib.import_module(module)).items() if not name.startswith("_")}
        found += [line(module, name, value) for name, value in sorted(names.items()) if not inspect.ismodule(value)]
    return [*found, triangular()] + [f"cupy.ndarray.{name} other" for name in sorted(set(dir(cupy.ndarray)) - set(dir(object)))]


def main():
    import cupy

    text = HEAD.format(version=cupy.__version__) + "\n".join(lines()) + "\n"
    before = FILE.read_text() if FILE.exists() else ""
    print(*difflib.unified_diff(before.splitlines(), text.splitlines(), "before", "now", lineterm="", n=0), sep="\n")
    FILE.write_text(text)


if __name__ == "__main__":
    main()
