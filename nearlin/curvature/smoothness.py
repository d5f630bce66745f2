"""How smooth a network's loss is in one layer, whatever the step there: constants from the norms of the layers above.

For layers x^k = h_k(W^k x^(k-1) + b^k), k = 1, ..., K, a mean over samples of a loss of x^K, and q = 1, 2 or ∞:

    ||G_i(W^i + D) - G_i(W^i)||_* <= L_i ||D||_q for all D,   L_i = s_i X_i²,   s_i = c_q r² + E_q v

    r, v       bounds of the first and second derivative of x^K by a^i = W^i x^(i-1) + b^i:  r = h1_i, v = h2_i, then for
               every layer j above:  r, v ← h1_j z_j r,  h2_j (z_j r)² + h1_j z_j v,   z_j >= ||W^j||_q,  h1, h2 >= |h'|, |h''|
    c_q, E_q   bounds of the loss's second and first derivative: ``curvature_bound`` and ``slope_bound`` of the losses
    X_i²       bounds the mean over samples of ||x^(i-1)||_q², or of ||[x^(i-1) 1]||_q² where W^i stands for [W^i b^i]

W^i itself enters nowhere, and what does is fixed while layer i moves. Derived for arXiv:1708.00523.
"""

import math
from typing import NamedTuple

from nearlin._array import namespace
from nearlin.nn import over_samples
from nearlin.nn.activations import activation
from nearlin.nn.losses import SquaredLoss
from nearlin.nn.parameters import split_bias

LINEAR = activation("identity")


class Targets(NamedTuple):
    """The smallest and the largest target, floats, and sizes (k, c): one of the rows bounds the |y_j| of every sample."""

    low: float
    high: float
    sizes: object


class Seen(NamedTuple):
    """What is known of the data: the largest mean squared input sizes by layer, and the `Targets` of the squared loss."""

    inputs: tuple
    targets: Targets | None


def join_seen(old, new):
    """The larger sizes and the wider range of two `Seen`, or of None and one; the sizes of targets are taken over all samples."""
    if new.targets is not None:
        xp = namespace(new.targets.sizes)
        new = new._replace(targets=new.targets._replace(sizes=xp.max(new.targets.sizes, axis=0, keepdims=True)))
    if old is None:
        return new
    targets = new.targets
    if targets is not None:
        low, high, sizes = zip(old.targets, targets, strict=True)
        targets = Targets(min(low), max(high), namespace(*sizes).maximum(*sizes))
    return Seen(tuple(map(max, old.inputs, new.inputs)), targets)


def target_range(y):
    """`Targets` of y (n, c), a row per sample; 3 n c flops."""
    xp = namespace(y)
    return Targets(float(xp.min(y)), float(xp.max(y)), xp.abs(y))


def check_smooth(chain, loss):
    """`ValueError` where ``chain`` is the sentence why there is none, or where a constant is not finite.

    Parameters
    ----------
    chain : tuple of Activation, or str
        As `Objective.chain`.
    loss : SquaredLoss, ...
    """
    if isinstance(chain, str):
        raise ValueError(f"no bounds of the loss's curvature: {chain}")
    for i, phi in enumerate(chain):
        if math.isinf(phi.h1) or math.isinf(phi.h2):
            raise ValueError(f"layer {i} has the activation {phi.name}; expected one with bounded first and second derivatives")
    top = _top(chain)
    if isinstance(loss, SquaredLoss) and top is not None and math.isinf(chain[top].h0):
        words = f"layer {top} has the unbounded activation {chain[top].name}"
        raise ValueError(f"{words}, so the slope of the squared loss has no bound; expected a bounded one, or another loss")


def _top(chain):
    """The highest layer with a curved activation, or None."""
    return max((i for i, phi in enumerate(chain) if phi.h2 > 0), default=None)


def layer_constants(q, params, layers, chain, loss, norms, targets, sharp=True):
    """s_i of every layer.

    Parameters
    ----------
    q : 1, 2 or inf
    params : tuple of arrays
    layers : tuple of LayerSpec
    chain : tuple of Activation
    loss : SquaredLoss, SigmoidCrossEntropy or SoftmaxCrossEntropy
    norms : sequence of float
        z_j of the weights, without biases; that of layer 0 is not used.
    targets : Targets
        Asked for by the squared loss alone.
    sharp : bool
        Bound the squared loss and a bounded last activation together where that is possible.

    Returns
    -------
    tuple of float

    Notes
    -----
    K² flops on the host; linear layers on top of the last curved one take a product with the absolute values of their weights.
    """
    outputs = layers[-1].out
    if sharp and hasattr(loss, "folded_bounds") and chain[-1].slope:
        chain, curvature, slope = _folded(q, chain, loss, targets, outputs)
    else:
        curvature = loss.curvature_bound(q, outputs)
        slope = (
            loss.slope_bound(q, outputs, lambda: deviation(params, layers, chain, targets)) if _top(chain) is not None else 0.0
        )
    return tuple(_constant(chain[i:], norms[i:], curvature, slope) for i in range(len(chain)))


def _constant(chain, norms, curvature, slope):
    """c r² + E v, by the recursion through the layers above the first of ``chain``."""
    r, v = chain[0].h1, chain[0].h2
    for phi, z in zip(chain[1:], norms[1:], strict=True):
        r, v = phi.h1 * z * r, phi.h2 * (z * r) * (z * r) + phi.h1 * z * v
    return curvature * r * r + (slope * v if v > 0 else 0.0)


def _folded(q, chain, loss, targets, outputs):
    """A linear last layer, and the bounds of the loss of its activation's argument."""
    slope, curvature = loss.folded_bounds(chain[-1], targets.low, targets.high)
    scale = outputs if loss.average else 1
    grown = {1: 1.0, 2: math.sqrt(outputs), math.inf: float(outputs)}[q]
    return (*chain[:-1], LINEAR), curvature * (outputs if q == math.inf else 1) / scale, slope * grown / scale


def deviation(params, layers, chain, targets):
    """Bounds (k, c) of |f_j - y_j| that hold whatever the layers up to the highest curved one do.

    That layer's outputs are at most h0; the linear layers above it are as they are.
    """
    xp, top = namespace(targets.sizes), _top(chain)
    reach = chain[top].h0
    for W, spec in zip(params[top + 1 :], layers[top + 1 :], strict=True):
        weights, bias = split_bias(W, spec)
        sizes = xp.abs(weights)
        reach = reach * xp.sum(sizes, axis=1) if isinstance(reach, float) else sizes @ reach
        reach = reach if bias is None else reach + xp.abs(bias)
    return reach + targets.sizes


def input_size(point, q, bias):
    """The mean over samples of ||x||_q², or of ||[x 1]||_q² with ``bias``, for the x (n, d) of a `Point`; 2 n d flops."""
    return float(point.input_sum(lambda x: _input_squares(x, q, bias))) / point.samples + (q == 2 and bias)


def trace_input_size(trace, q, bias):
    """`input_size` of the inputs of a dense layer's trace."""
    squares = over_samples(lambda own: _input_squares(own.inputs, q, bias), trace)
    return float(squares) / trace.rows + (q == 2 and bias)


def _input_squares(x, q, bias):
    """Σ ||x||_q², or of ||[x 1]||_q² with ``bias``, but for q = 2, where it is added to the mean."""
    xp = namespace(x)
    if q == 2:
        return xp.sum(x * x)
    if q == 1:
        return xp.sum((xp.sum(xp.abs(x), axis=1) + float(bias)) ** 2)
    size = xp.max(xp.abs(x), axis=1)
    return xp.sum((xp.maximum(size, xp.ones_like(size)) if bias else size) ** 2)


def input_bound(h0, n, q, bias):
    """The bound of `input_size` for n inputs of at most ``h0`` each."""
    if q == 2:
        return h0 * h0 * n + bias
    if q == 1:
        return (h0 * n + bias) ** 2
    return max(h0, 1.0) ** 2 if bias else h0 * h0
