"""Layers by hand: forward, backward and forward-mode derivative; caches are returned, never stored.

A layer has ``forward(W, x) -> y, cache``, ``backward(W, cache, dy) -> dx, trace`` and ``jvp(W, cache, dx, dW) -> dy``.
Layers without parameters take ``W = None`` and return ``trace = None``; their ``spec`` is None. ``trace(cache, dy)`` is the half
of ``backward`` that the first layer of a network needs; ``rows(cache)`` is the number of a trace's rows, samples times positions.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import NamedTuple

from nearlin._array import flag, integer, matmul, namespace, normal, one_of, require, settle, uniform, where_positive
from nearlin.nn.activations import Activation
from nearlin.nn.images import blockwise, both


@dataclass(frozen=True)
class LayerSpec:
    """What a method may know of one trainable layer; its matrix is (out, fan_in + 1) with a bias and (out, fan_in) without.

    Kinds are ``dense``; ``conv``, with columns ordered by input channel, then kernel row, then kernel column; ``norm``, whose
    matrix (channels, 2) holds scale and shift; and ``graph``, dense on the neighbourhoods of nodes. Where there is an
    ``input_scale`` s, the matrix holds the weights W diag(s) of inputs x / s, and W itself is penalised: see `Standardised`.
    """

    kind: str  # dense | conv | norm | graph
    out: int
    inp: int
    kernel: int | tuple = 1  # of convolutions pairs, for rows and columns, as are stride, pad and dilation
    stride: int | tuple = 1
    pad: int | tuple = 0
    bias: bool = True
    dilation: int | tuple = 1
    groups: int = 1
    input_scale: tuple = ()

    def __post_init__(self):
        if self.kind == "conv":
            for name in ("kernel", "stride", "pad", "dilation"):
                object.__setattr__(self, name, both(getattr(self, name)))

    @property
    def depth(self):
        """Inputs that one output is connected with: those of its group."""
        return self.inp // self.groups

    @property
    def entries(self):
        """Entries of one kernel, 1 but for convolutions."""
        return math.prod(both(self.kernel))

    @property
    def fan_in(self):
        """Columns that hold weights: inputs of a group times the entries of a kernel."""
        return self.depth * self.entries

    @property
    def shape(self):
        """Shape of the layer's matrix."""
        return (self.out, self.fan_in + self.bias)


class Trace(NamedTuple):
    """What one dense layer contributes to a gradient: inputs a (n, inp) and output gradients g (n, out), one row per sample."""

    inputs: object
    signals: object
    bias: bool

    @property
    def rows(self):
        """Number of rows: samples, or nodes of a graph."""
        return self.inputs.shape[0]

    def by_group(self):
        """The trace alone: a dense layer is one group."""
        return (self,)

    def homogeneous(self):
        """The inputs with a column of ones appended where the layer has a bias."""
        return with_ones(self.inputs) if self.bias else self.inputs

    def accumulate(self, f):
        """``f(A, G)`` for the columns A (inp + 1, rows) of homogeneous inputs and G (out, rows) of output gradients."""
        transposed = namespace(self.signals).matrix_transpose
        return f(transposed(self.homogeneous()), transposed(self.signals))

    def grad(self):
        """The gradient of the layer's matrix, gᵀ [a 1]; 2 n out inp flops."""
        return matmul(namespace(self.signals).matrix_transpose(self.signals), self.homogeneous())


def with_ones(a):
    """``a`` (n, k) with a column of ones appended."""
    xp = namespace(a)
    return xp.concat([a, xp.ones_like(a[:, :1])], axis=1)


def widths(names, sizes):
    """``sizes`` as a tuple of integers; `ValueError` unless they are two or more and positive."""
    holds = len(sizes) > 1 and all(isinstance(size, Integral) and not isinstance(size, bool) and size > 0 for size in sizes)
    require(holds, f"sizes is {tuple(sizes)!r}; expected at least two positive integers: {names}")
    return tuple(map(int, sizes))


SCHEMES = ("normal", "uniform", "fan-out")


def draw_weights(scheme, key, spec, like, gain):
    """The initial matrix of a dense, conv or graph layer.

    ``"normal"``: W ~ N(0, gain / fan-in), b = 0. ``"uniform"``: W and b uniform on ±1/√fan-in (PyTorch's default).
    ``"fan-out"``: W ~ N(0, 2 / (entries of a kernel · out)), b = 0.
    """
    xp = namespace(like)
    if scheme == "uniform":
        return (2 * uniform(key, spec.shape, like) - 1) / math.sqrt(spec.fan_in)
    variance = gain / spec.fan_in if scheme == "normal" else 2 / (spec.entries * spec.out)
    W = normal(key, (spec.out, spec.fan_in), like) * math.sqrt(variance)
    return xp.concat([W, xp.zeros_like(W[:, :1])], axis=1) if spec.bias else W


@dataclass(frozen=True)
class Dense:
    """y = x Wᵀ + b, with the matrix [W b] of shape (out, inp + 1), or (out, inp) without bias.

    Parameters
    ----------
    inp, out : int
    bias : bool
    scheme : str
        How weights are drawn: ``"normal"``, ``"uniform"`` or ``"fan-out"``; see `draw_weights`.
    """

    inp: int
    out: int
    bias: bool = True
    scheme: str = "normal"

    def __post_init__(self):
        settle(self, inp=integer(1), out=integer(1), bias=flag, scheme=one_of(*SCHEMES))

    @cached_property
    def spec(self):
        """The layer's `LayerSpec`."""
        return LayerSpec("dense", self.out, self.inp, bias=self.bias)

    def init(self, key, like, gain=1.0):
        """The matrix [W b] drawn by the layer's scheme, next to ``like``."""
        return draw_weights(self.scheme, key, self.spec, like, gain)

    def _apply(self, W, x):
        y = matmul(x, namespace(W).matrix_transpose(W[:, : self.inp]))
        return y + W[:, self.inp] if self.bias else y

    def forward(self, W, x):
        """y (n, out) of x (n, inp), and the cache, x; 2 n inp out flops. `ValueError` where x has another shape."""
        if x.ndim != 2 or x.shape[1] != self.inp:
            raise ValueError(f"a dense layer of {self.inp} inputs was given an array of shape {tuple(x.shape)}")
        return self._apply(W, x), x

    def trace(self, x, dy):
        """The `Trace` of the cache x (n, inp) and output gradients dy (n, out)."""
        return Trace(x, dy, self.bias)

    def rows(self, x):
        """Rows of a trace: the n samples of the cache x."""
        return x.shape[0]

    def backward(self, W, x, dy):
        """dx (n, inp) for output gradients dy (n, out), and the `Trace`; 2 n inp out flops."""
        return matmul(dy, W[:, : self.inp]), self.trace(x, dy)

    def jvp(self, W, x, dx, dW):
        """Derivative of y along (dx, dW); ``dx`` None stands for zero (the first layer)."""
        dy = self._apply(dW, x)
        return dy if dx is None else dy + matmul(dx, namespace(W).matrix_transpose(W[:, : self.inp]))


@dataclass(frozen=True, eq=False)
class Slope:
    """The cache of an activation: phi'(x), made when it is first asked for and kept for further passes, but where it is cheap."""

    x: object
    phi: Activation

    @cached_property
    def values(self):
        """phi'(x), like x."""
        return self.phi.derivative(self.x)

    def times(self, d):
        """phi'(x) d, like x."""
        if self.phi.name == "relu":
            return blockwise(lambda x, d: where_positive(d, x), d.shape, self.x, d)
        return d * self.values


@dataclass(frozen=True)
class Elementwise:
    """y = phi(x) for an activation phi."""

    phi: Activation
    spec = None

    def forward(self, W, x):
        """y = phi(x), shaped like x, and the cache: a `Slope`, which holds phi'(x) once it has been asked for."""
        return blockwise(self.phi.function, x.shape, x), Slope(x, self.phi)

    def backward(self, W, slope, dy):
        """dx = dy phi'(x), shaped like x, for output gradients dy; no trace."""
        return slope.times(dy), None

    def jvp(self, W, slope, dx, dW):
        """The derivative of y along dx, dx phi'(x); None, which stands for zero, stays None."""
        return None if dx is None else slope.times(dx)


@dataclass(frozen=True)
class Flatten:
    """y = x (n, ...) as (n, everything else)."""

    spec = None

    def forward(self, W, x):
        """y (n, entries of a sample) of x (n, ...), and the cache, the shape of x."""
        return namespace(x).reshape(x, (x.shape[0], -1)), tuple(x.shape)

    def backward(self, W, shape, dy):
        """dx, in the shape of x, for output gradients dy; no trace."""
        return namespace(dy).reshape(dy, shape), None

    def jvp(self, W, shape, dx, dW):
        """The derivative of y along dx, dx (n, entries of a sample); None, which stands for zero, stays None."""
        return None if dx is None else namespace(dx).reshape(dx, (shape[0], -1))
