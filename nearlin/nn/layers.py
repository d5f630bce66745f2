"""Layers by hand: forward, backward and forward-mode derivative; caches are returned, never stored.

A layer has ``forward(W, x) -> y, cache``, ``backward(W, cache, dy) -> dx, trace`` and ``jvp(W, cache, dx, dW) -> dy``.
Layers without parameters take ``W = None`` and return ``trace = None``; their ``spec`` is None.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import namespace, normal
from nearlin.nn.activations import Activation


@dataclass(frozen=True)
class LayerSpec:
    """What a method may know of one trainable layer; its matrix is (out, fan_in + 1) with a bias and (out, fan_in) without."""

    kind: str  # dense | conv | norm | graph
    out: int
    inp: int
    kernel: int = 1
    stride: int = 1
    pad: int = 0
    bias: bool = True

    @property
    def shape(self):
        """Shape of the layer's matrix."""
        return (self.out, self.inp * self.kernel**2 + self.bias)


class Trace(NamedTuple):
    """What one layer contributes to a gradient: its inputs a (n, inp) and output gradients g (n, out), one row per sample."""

    inputs: object
    signals: object
    bias: bool

    def homogeneous(self):
        """The inputs with a column of ones appended where the layer has a bias."""
        if not self.bias:
            return self.inputs
        xp = namespace(self.inputs)
        return xp.concat([self.inputs, xp.ones_like(self.inputs[:, :1])], axis=1)

    def grad(self):
        """The gradient of the layer's matrix, gᵀ [a 1]; 2 n out inp flops."""
        return namespace(self.signals).matrix_transpose(self.signals) @ self.homogeneous()


@dataclass(frozen=True)
class Dense:
    """y = x Wᵀ + b, with the matrix [W b] of shape (out, inp + 1), or (out, inp) without bias."""

    inp: int
    out: int
    bias: bool = True

    @property
    def spec(self):
        return LayerSpec("dense", self.out, self.inp, bias=self.bias)

    def init(self, key, like, gain=1.0):
        """W ~ N(0, gain / inp), b = 0."""
        xp = namespace(like)
        W = normal(key, (self.out, self.inp), like) * math.sqrt(gain / self.inp)
        return xp.concat([W, xp.zeros_like(W[:, :1])], axis=1) if self.bias else W

    def _apply(self, W, x):
        y = x @ namespace(W).matrix_transpose(W[:, : self.inp])
        return y + W[:, self.inp] if self.bias else y

    def forward(self, W, x):
        return self._apply(W, x), x

    def backward(self, W, x, dy):
        return dy @ W[:, : self.inp], Trace(x, dy, self.bias)

    def jvp(self, W, x, dx, dW):
        """Derivative of y along (dx, dW); ``dx`` None stands for zero (the first layer)."""
        dy = self._apply(dW, x)
        return dy if dx is None else dy + dx @ namespace(W).matrix_transpose(W[:, : self.inp])


@dataclass(frozen=True)
class Elementwise:
    """y = phi(x) for an activation phi."""

    phi: Activation
    spec = None

    def forward(self, W, x):
        return self.phi.function(x), x

    def backward(self, W, x, dy):
        return dy * self.phi.derivative(x), None

    def jvp(self, W, x, dx, dW):
        return None if dx is None else dx * self.phi.derivative(x)
