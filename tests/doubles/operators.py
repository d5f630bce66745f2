"""Operators and methods of the double's arrays, by the functions that they stand for."""

import numpy as np

from tests.doubles import signatures
from tests.doubles.arrays import SCALARS, ndarray


def _method(name):
    return lambda self, *args, **kwargs: ndarray.functions[name](self, *args, **kwargs)


def _operator(name, reflected=False):
    def apply(self, other):
        if not isinstance(other, (ndarray, np.ndarray, list, tuple, *SCALARS)):
            return NotImplemented
        return ndarray.functions[name](*((other, self) if reflected else (self, other)))

    return apply


def _in_place(name):
    return lambda self, other: ndarray.functions[name](self, other, out=self)


UNARY = {"neg": "negative", "abs": "absolute", "invert": "invert"}
ARITHMETIC = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide", "mod": "remainder",
    "pow": "power", "lshift": "left_shift", "rshift": "right_shift", "and": "bitwise_and", "or": "bitwise_or",
    "xor": "bitwise_xor", "matmul": "matmul",
}  # fmt: skip
COMPARISONS = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal", "ne": "not_equal"}


def attach(functions):
    """Give the arrays their operators and methods, which call these functions, by name."""
    ndarray.functions.update(functions)
    for name in set(signatures.listed("cupy.ndarray")) & set(functions) - set(vars(ndarray)):
        setattr(ndarray, name, _method(name))
    for name, function in UNARY.items():
        setattr(ndarray, f"__{name}__", _method(function))
    for name, function in (ARITHMETIC | COMPARISONS).items():
        setattr(ndarray, f"__{name}__", _operator(function))
    for name, function in ARITHMETIC.items():
        setattr(ndarray, f"__r{name}__", _operator(function, reflected=True))
        setattr(ndarray, f"__i{name}__", _in_place(function))
