"""Activations: a function, its derivative, and the constants that guarantees need."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from nearlin._array import namespace


@dataclass(frozen=True)
class Activation:
    """An elementwise function phi with its derivative and the suprema of |phi|, |phi'| and |phi''|.

    Parameters
    ----------
    name : str
        ``relu``, ``tanh``, ``sigmoid``, ``softplus`` or ``identity``.
    function, derivative : callable
        phi(z) and phi'(z) for an array z of any shape.
    h0, h1, h2 : float
        Suprema of |phi|, |phi'|, |phi''|; infinite where there is none.
    slope : tuple of float
        Coefficients of phi' as a polynomial in phi, constant first, for a bounded phi that has one; else ().
    low : float
        Infimum of phi; h0 is its supremum where ``slope`` is given.
    """

    name: str
    function: Callable
    derivative: Callable
    h0: float
    h1: float
    h2: float
    slope: tuple = ()
    low: float = -math.inf


def _relu(z):
    return namespace(z).maximum(z, 0.0)


def _relu_derivative(z):
    return namespace(z).astype(z > 0, z.dtype)  # ReLU'(0) = 0


def _tanh_derivative(z):
    t = namespace(z).tanh(z)
    return 1.0 - t * t


def _sigmoid(z):
    xp = namespace(z)
    e = xp.exp(-xp.abs(z))  # never overflows, and keeps its digits where the sigmoid is small
    return xp.where(z >= 0, 1.0, e) / (1.0 + e)


def _sigmoid_derivative(z):
    s = _sigmoid(z)
    return s * (1.0 - s)


def _softplus(z):
    xp = namespace(z)
    return xp.maximum(z, 0.0) + xp.log1p(xp.exp(-xp.abs(z)))


def _ones(z):
    return namespace(z).ones_like(z)


def _same(z):
    return z


ACTIVATIONS = {
    a.name: a
    for a in (
        Activation("relu", _relu, _relu_derivative, math.inf, 1.0, math.inf),
        Activation("tanh", lambda z: namespace(z).tanh(z), _tanh_derivative, 1.0, 1.0, 4 / (3 * math.sqrt(3)), (1, 0, -1), -1.0),
        Activation("sigmoid", _sigmoid, _sigmoid_derivative, 1.0, 0.25, 1 / (6 * math.sqrt(3)), (0, 1, -1), 0.0),
        Activation("softplus", _softplus, _sigmoid, math.inf, 1.0, 0.25),
        Activation("identity", _same, _ones, math.inf, 1.0, 0.0),
    )
}


def activation(name):
    """The `Activation` called ``name``; `ValueError` listing the known ones otherwise."""
    if isinstance(name, Activation):
        return name
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is {name!r}; expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
