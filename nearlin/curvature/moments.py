"""First and second moments of what a layer's trace holds, in one walk over its rows, and their changes from step to step."""

import math
from typing import NamedTuple

from nearlin._array import namespace, read_number, side_by_side, unguarded
from nearlin.nn import ConvTrace, over_samples

ROUNDING = 32  # a mean that changes by fewer ε of what it averages shows rounding: 0.4 or less was measured, and 3e3 else


class Moments(NamedTuple):
    """Moments of one layer's homogeneous inputs a (D,) and output gradients g (out,) over the rows of a trace.

    Attributes
    ----------
    grad : array, shape (out, D)
        sum g aᵀ.
    gram : array, shape (D, D), or None
        sum a aᵀ.
    inputs : array, shape (D,)
        Mean of a; 1 in its last entry where the layer has a bias.
    signals : array, shape (out,)
        Mean of g.
    size : float
        Root of the mean of ||g||².
    """

    grad: object
    gram: object
    inputs: object
    signals: object
    size: float


class Means(NamedTuple):
    """``inputs``, ``signals`` and ``size`` as in `Moments`."""

    inputs: object
    signals: object
    size: float


def moments(trace, gram=True):
    """The `Moments` of a dense, graph or convolution trace: samples, nodes, or positions of samples.

    2 rows D (out + D) flops with ``gram``, where a BLAS does half of the square, else 2 rows D out; a convolution unfolds its
    patches once.
    """

    def part(A, G):
        xp = namespace(G)
        first = (G @ xp.matrix_transpose(A), xp.sum(A, axis=1), xp.sum(G, axis=1), _squared(G))
        return (*first, A @ xp.matrix_transpose(A)) if gram else first

    sums = over_samples(lambda own: own.accumulate(part), trace, symmetric=(4,) * gram)
    (grad, inputs, signals, squared, *square), rows = sums, trace.rows
    return Moments(grad, square[0] if gram else None, inputs / rows, signals / rows, _root(squared, rows))


def observe(point, layers, gram=True):
    """The gradient of the mean loss at a `Point`, and the `Moments` of its layers, None for normalisation layers.

    One backward pass. ``gram`` is here the mean over samples of the sum of a aᵀ over a sample's rows.
    """

    def look(trace, spec):
        one = None if spec.kind == "norm" else moments(trace, gram)
        grad = (trace.grad() if one is None else one.grad) / point.samples
        return grad, one._replace(gram=one.gram / point.samples) if one is not None and gram else one

    return tuple(zip(*side_by_side(look, point.traces(), layers, like=point.outputs), strict=True))


def means(trace):
    """The `Means` over the rows of a trace: of homogeneous inputs (D,) and of output gradients (out,)."""
    (inputs, signals, squared), rows = over_samples(_sums, trace), trace.rows
    inputs = inputs / rows
    if getattr(trace, "bias", False):  # of a convolution they have their one already
        inputs = namespace(inputs).concat([inputs, namespace(inputs).ones_like(inputs[:1])])
    return Means(inputs, signals / rows, _root(squared, rows))


def _sums(trace):
    """Of inputs, of convolutions homogeneous ones, of output gradients and of their squares."""
    xp = namespace(trace.signals)
    if isinstance(trace, ConvTrace):
        return trace.accumulate(lambda A, G: (xp.sum(A, axis=1), xp.sum(G, axis=1), _squared(G)))
    return xp.sum(trace.inputs, axis=0), xp.sum(trace.signals, axis=0), _squared(trace.signals)


def _squared(G):
    with unguarded():
        return namespace(G).sum(G * G)


def _root(squared, rows):
    return math.sqrt(read_number(squared) / rows)


def change(W, before, W_new, after):
    """A layer's change from one step to the next, by its `Means`: of the mean output s = Δ(W a), of the mean g, y = Δ g, (out,)
    each, and how much of ||y|| may be rounding.

    Ahead of a normalisation the mean of g is 0, and all of y is rounding. 4 out D flops.
    """
    s, y = W_new @ after.inputs - W @ before.inputs, after.signals - before.signals
    return s, y, ROUNDING * float(namespace(y).finfo(y.dtype).eps) * max(before.size, after.size)
