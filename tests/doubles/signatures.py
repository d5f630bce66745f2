"""The names and parameters of CuPy that cupy_signatures.txt lists."""

import re
from pathlib import Path

FILE = Path(__file__).with_name("cupy_signatures.txt")
LINE = re.compile(r"(?P<module>[a-z.]+)\.(?P<name>\w+)(?:\((?P<parameters>.*)\)| (?P<kind>\w+) ?(?P<loops>.*))")


def listed(module):
    """Name -> (kind, parameters or loops) of a module; a kind is function, ufunc, dtype, constant or other."""
    found = {}
    for line in FILE.read_text().splitlines():
        match = None if line.startswith("#") else LINE.fullmatch(line)
        if match and match["module"] == module:
            kind = match["kind"] or "function"
            found[match["name"]] = kind, match["loops"].split() if kind == "ufunc" else match["parameters"]
    return found


def version():
    """The version of CuPy that the names come from."""
    return re.search(r"CuPy (\d+\.\d+\.\d+)", FILE.read_text())[1]


def binder(name, parameters):
    """A function that raises `TypeError` for arguments that a function with these parameters does not take."""
    bind = eval(f"lambda {parameters}: None")
    bind.__name__ = bind.__qualname__ = name
    return bind
