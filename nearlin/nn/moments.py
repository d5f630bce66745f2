"""First and second moments of what a layer's trace holds, in one walk over its rows."""

from typing import NamedTuple

from nearlin._array import namespace
from nearlin.nn.convolution import ConvTrace


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
    """

    grad: object
    gram: object
    inputs: object
    signals: object


def moments(trace, gram=True):
    """The `Moments` of a dense, graph or convolution trace: samples, nodes, or positions of samples.

    2 rows D (out + D) flops with ``gram``, where a BLAS does half of the square, else 2 rows D out; a convolution unfolds its
    patches once.
    """
    xp = namespace(trace.signals)
    transposed = xp.matrix_transpose

    def part(A, G):
        first = (G @ transposed(A), xp.sum(A, axis=1), xp.sum(G, axis=1))
        return (*first, A @ transposed(A)) if gram else first

    grad, inputs, signals, *square = trace.accumulate(part)
    return Moments(grad, square[0] if gram else None, inputs / trace.rows, signals / trace.rows)


def observe(point, layers, gram=True):
    """The gradient of the mean loss at a `Point`, and the `Moments` of its layers, None for normalisation layers.

    One backward pass. ``gram`` is here the mean over samples of the sum of a aᵀ over a sample's rows.
    """
    grads, seen = [], []
    for trace, spec in zip(point.traces(), layers, strict=True):
        one = None if spec.kind == "norm" else moments(trace, gram)
        grads.append((trace.grad() if one is None else one.grad) / point.samples)
        seen.append(one._replace(gram=one.gram / point.samples) if one is not None and gram else one)
    return tuple(grads), seen


def means(trace):
    """Mean homogeneous input (D,) and mean output gradient (out,) over the rows of a trace."""
    xp = namespace(trace.signals)
    if isinstance(trace, ConvTrace):
        inputs, signals = trace.accumulate(lambda A, G: (xp.sum(A, axis=1), xp.sum(G, axis=1)))
        return inputs / trace.rows, signals / trace.rows
    inputs, signals = xp.mean(trace.inputs, axis=0), xp.mean(trace.signals, axis=0)
    return (xp.concat([inputs, xp.ones_like(inputs[:1])]) if trace.bias else inputs), signals
