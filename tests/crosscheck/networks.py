"""Awkward small networks, and what they compute by plain NumPy: a loop over pixels forward, complex steps for derivatives.

Nothing here is shared with the library: a derivative is the imaginary part of the loss at z + i h over h, exact to rounding.
"""

import itertools
import math
import random
from dataclasses import dataclass

import numpy as np
import pytest

from nearlin import nn

SIZE = 1e-30  # of a complex step


@dataclass(frozen=True)
class Conv:
    """A convolution of the specification: channels in and out, kernel, stride, padding."""

    inp: int
    out: int
    kernel: int
    stride: int = 1
    pad: int = 0
    bias: bool = True


@dataclass(frozen=True)
class Fully:
    """A dense layer of the specification."""

    out: int
    bias: bool = True


# name: (layers, shape of a sample, samples); tanh between the layers
NETWORKS = {
    "plain": ((Conv(2, 3, 3, 1, 1), Fully(4), Fully(3)), (2, 4, 5), 6),
    "one sample": ((Conv(2, 3, 3, 1, 1), Fully(4), Fully(3)), (2, 4, 5), 1),
    "one output": ((Conv(2, 1, 3, 1, 1), Fully(1), Fully(1)), (2, 4, 5), 5),
    "1x1 convolution": ((Conv(2, 3, 1), Conv(3, 2, 1, bias=False), Fully(3)), (2, 3, 4), 5),
    "stride above kernel": ((Conv(2, 3, 2, 3), Fully(3)), (2, 8, 6), 5),
    "1x1 stride 2": ((Conv(2, 3, 1, 2), Conv(3, 2, 1, 2, 1), Fully(3)), (2, 5, 6), 5),
    "stride 2 pad 1": ((Conv(2, 3, 3, 2, 1), Conv(3, 2, 3, 2, 1, bias=False), Fully(3)), (2, 7, 6), 5),
    "no bias": ((Conv(1, 2, 3, 2, 1, bias=False), Fully(4, bias=False), Fully(3, bias=False)), (1, 5, 5), 5),
    "pad above kernel": ((Conv(2, 3, 2, 2, 3), Fully(3)), (2, 3, 4), 4),
    "one pixel": ((Conv(3, 4, 3, 1, 1), Fully(2)), (3, 1, 1), 4),
    "dense": ((Fully(4), Fully(3)), (5,), 7),
    "dense 1-1-1": ((Fully(1), Fully(1, bias=False)), (1,), 3),
    "one input": ((Fully(4, bias=False), Fully(2, bias=False)), (1,), 3),
    "wide output": ((Fully(9, bias=False), Fully(8)), (2,), 3),
}
LOSSES = {"squared": nn.SquaredLoss, "softmax": nn.SoftmaxCrossEntropy, "sigmoid": nn.SigmoidCrossEntropy}
LINEAR = ("one output", "dense 1-1-1")  # one output: a softmax has nothing to learn there


def cases(*axes, every=1, where=lambda *_: True):
    """Parameters for a test: the product of ``axes``, of which one in ``every`` runs without ``--nightly``."""
    rows = [row for row in itertools.product(*axes) if where(*row)]
    chosen = set(random.Random(0).sample(range(len(rows)), -(-len(rows) // every)))
    return [
        pytest.param(*row, id="-".join(map(str, row)).replace(" ", "_"), marks=() if k in chosen else pytest.mark.nightly)
        for k, row in enumerate(rows)
    ]


@dataclass(frozen=True)
class Pass:
    """What one pass gives: mean loss, per layer the mean gradient G (o, D), the samples' gradients S (n, o, D), the inputs a
    (n, T, D), the gradients g (n, T, o) by the outputs z (n, T, o) of the layer; T positions."""

    loss: float
    G: list
    S: list
    a: list
    g: list
    z: list


class Case:
    """A network of `NETWORKS` under a loss: the library's objective, and the same in NumPy."""

    def __init__(self, name, loss="squared", seed=0, l2=0.0):
        self.layers, self.shape, self.n = NETWORKS[name]
        self.kind = loss
        self.network = _network(self.layers, self.shape)
        self.objective = nn.Objective(self.network, LOSSES[loss](), l2=l2)
        draw = np.random.default_rng(seed)
        self.x = draw.standard_normal((self.n, *self.shape))
        self.params = tuple(0.7 * W + 0.1 * draw.standard_normal(W.shape) for W in self.network.init(3, np.ones(1)))
        self.outputs = self.walk(self.params)[0].shape[1]
        self.y = self._targets(draw)
        self.batch = (self.x, self.y)
        self.drawn = [self._targets(draw) for _ in range(30)]

    def _targets(self, draw):
        shape = (self.n, self.outputs)
        if self.kind == "softmax":
            return np.eye(self.outputs)[draw.integers(0, self.outputs, self.n)]
        return draw.standard_normal(shape) if self.kind == "squared" else draw.random(shape)

    def walk(self, params, at=None, step=None):
        """Outputs f (n, c), complex; inputs a and outputs z of the layers. ``step`` (T, o) or (o, D) is added to the outputs,
        ``at = ("z", k)``, or the weights, ``("W", k)``, of layer k."""
        h, inputs, outputs = self.x.astype(complex), [], []
        for k, (layer, W) in enumerate(zip(self.layers, params, strict=True)):
            a, grid = _rows(layer, h)
            a = np.concatenate([a, np.ones_like(a[..., :1])], axis=2) if layer.bias else a
            z = a @ (W + step if at == ("W", k) else W).T
            z = z + step if at == ("z", k) else z
            inputs.append(a.real)
            outputs.append(z.real)
            h = np.tanh(z) if k < len(self.layers) - 1 else z
            h = np.moveaxis(h, 2, 1).reshape(self.n, layer.out, *grid)
        return h.reshape(self.n, -1), inputs, outputs

    def slope(self, params, y, place, shape, entry):
        """The derivatives of the samples' losses, (n,), by one entry of the weights or outputs at ``place``."""
        f, *_ = self.walk(params, place, _unit(shape, entry))
        return _losses(self.kind, f, y).imag / SIZE

    def reference(self, params, y=None):
        """A `Pass` at ``params`` on the targets ``y``, by default the true ones."""
        y = self.y if y is None else y
        f, a, z = self.walk(params)
        g = [np.zeros(outputs.shape) for outputs in z]
        for k, slopes in enumerate(g):
            for t, o in np.ndindex(slopes.shape[1:]):
                slopes[:, t, o] = self.slope(params, y, ("z", k), slopes.shape[1:], (t, o))
        S = [np.einsum("nto,ntd->nod", slopes, inputs) for slopes, inputs in zip(g, a, strict=True)]
        return Pass(float(_losses(self.kind, f, y).real.mean()), [s.mean(0) for s in S], S, a, g, z)

    def per_sample_gradients(self, params, y=None):
        """Per layer (n, o, D), one complex step for each weight."""
        y = self.y if y is None else y
        gradients = [np.zeros((self.n, *W.shape)) for W in params]
        for k, S in enumerate(gradients):
            for entry in np.ndindex(S.shape[1:]):
                S[(slice(None), *entry)] = self.slope(params, y, ("W", k), S.shape[1:], entry)
        return gradients

    def jacobian(self, params):
        """J (n c, p), matrices ravelled in order, and the outputs (n, c)."""
        places = [(("W", k), _unit(W.shape, entry)) for k, W in enumerate(params) for entry in np.ndindex(W.shape)]
        columns = [self.walk(params, *place)[0].imag.ravel() / SIZE for place in places]
        return np.stack(columns, axis=1), self.walk(params)[0].real

    def weights(self, params):
        """Like ``params``, with zeros in the columns of biases."""
        return [W * (np.arange(W.shape[1]) < W.shape[1] - layer.bias) for layer, W in zip(self.layers, params, strict=True)]

    def run(self, optimizer, steps, objective=None):
        """(params, state) after ``steps`` accepted steps of the library."""
        objective = objective or self.objective
        params, state = self.params, optimizer.init(self.params, objective)
        for t in range(steps):
            params, state, info = optimizer.step(params, state, objective, self.batch, key=t)
            assert info.accepted, info
        return params, state


def _network(layers, shape):
    modules, size = [], shape
    for k, layer in enumerate(layers):
        if isinstance(layer, Conv):
            modules.append(nn.Conv2d(layer.inp, layer.out, layer.kernel, stride=layer.stride, pad=layer.pad, bias=layer.bias))
            size = (layer.out, *((s + 2 * layer.pad - layer.kernel) // layer.stride + 1 for s in size[1:]))
        else:
            if len(size) > 1:
                modules.append(nn.Flatten())
            modules.append(nn.Dense(math.prod(size), layer.out, bias=layer.bias))
            size = (layer.out,)
        if k < len(layers) - 1:
            modules.append(nn.Elementwise(nn.activation("tanh")))
    return nn.Sequential(tuple(modules), shape=shape)


def _unit(shape, entry):
    step = np.zeros(shape, dtype=complex)
    step[entry] = 1j * SIZE
    return step


def _rows(layer, h):
    """What a layer multiplies its matrix with: (n, T, D) without the constant, and the grid of its T positions."""
    if isinstance(layer, Fully):
        return h.reshape(len(h), 1, -1), ()
    h = np.pad(h, ((0, 0), (0, 0), (layer.pad, layer.pad), (layer.pad, layer.pad)))
    tops, lefts = (range(0, size - layer.kernel + 1, layer.stride) for size in h.shape[2:])
    patches = [h[:, :, i : i + layer.kernel, j : j + layer.kernel].reshape(len(h), -1) for i in tops for j in lefts]
    return np.stack(patches, axis=1), (len(tops), len(lefts))


def _losses(kind, f, y):
    """Per sample, (n,)."""
    if kind == "squared":
        return 0.5 * ((f - y) ** 2).sum(1)
    if kind == "softmax":
        top = f.real.max(1, keepdims=True)
        return np.log(np.exp(f - top).sum(1)) - (y * (f - top)).sum(1)
    return (np.log(1 + np.exp(f)) - y * f).sum(1)


def output_hessians(kind, f):
    """The Hessians of the losses by the outputs, (n, c, c)."""
    if kind == "squared":
        return np.tile(np.eye(f.shape[1]), (len(f), 1, 1))
    if kind == "softmax":
        p = np.exp(f - f.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return np.stack([np.diag(q) - np.outer(q, q) for q in p])
    p = 1 / (1 + np.exp(-f))
    return np.stack([np.diag(q * (1 - q)) for q in p])


def error(got, want):
    """The largest entry of got - want beside the largest of ``want``; infinite where the shapes differ."""
    got, want = np.asarray(got, dtype=float), np.asarray(want, dtype=float)
    if got.shape != want.shape:
        return math.inf
    return float(np.abs(got - want).max(initial=0) / max(np.abs(want).max(initial=0), 1e-30))


def worst(got, want):
    """The largest `error` of two lists of arrays."""
    return max(error(a, b) for a, b in zip(got, want, strict=True))
