"""What a layer-wise method adds for one dense or convolutional layer, and its whole step on a perceptron."""

from fractions import Fraction
from itertools import pairwise
from math import ceil, prod
from typing import NamedTuple

import numpy as np

from nearlin._array import block_length
from nearlin.complexity.cost.steps import check_flops, first_order_step, loss_flops
from nearlin.linalg.block_inverse import GROUP, STACKED, SWEPT
from nearlin.linalg.dealt import largest_share
from nearlin.nn.layers import LayerSpec
from nearlin.nn.parameters import ungrouped
from nearlin.optim import KBFGSL
from nearlin.optim.kfac import WORTH


class LayerCost(NamedTuple):
    """What a layer-wise method does for one layer beside a step of first order, once it is under way.

    Attributes
    ----------
    statistics, inverse : int
        Flops where statistics, and inverses or roots, are due. Statistics without the passes that they need.
    direction, updates : int
        Flops of every step: the direction; what quasi-Newton factors take after the step, means included.
    state : int
        Floats kept from one step to the next, the momentum included.
    """

    statistics: int
    inverse: int
    direction: int
    updates: int
    state: int


def dense_layers(sizes):
    """The specs of the dense layers of a perceptron with ``sizes`` = (d, widths, c)."""
    return tuple(LayerSpec("dense", out, inp) for inp, out in pairwise(sizes))


def block_inverses(blocks, k):
    """`linalg.block_inverse` of positive definite blocks (k, k): k³, 7 k³/3 for 16 < k <= 64, and lower terms a block."""
    if k <= SWEPT:
        shared = sum(2 * (min(i + GROUP, k) - i) * (k - i) for i in range(0, k, GROUP))
        each = k * (shared + 7 * k + 10) - 1
    elif k <= STACKED:
        each = (14 * k**3 + 63 * k * k + 25 * k) // 6 - 1
    else:
        each = k**3 + 5 * k * k + 2 * k - 2
    return blocks * each + blocks - 1


def mini_block_fisher_layer(spec, n, positions=1, layout="out", average=True, statistic="batch"):
    """What `MiniBlockFisher` does for one layer; see `LayerCost`.

    Parameters
    ----------
    spec : nearlin.nn.LayerSpec
    n, positions : int
        Samples, and output positions of one sample (1 but for convolutions).
    layout, average, statistic
        As in `MiniBlockFisher`; ``"sample"`` for the layouts ``"out"`` and ``"in"``.

    Returns
    -------
    LayerCost
    """
    vectors = (2 if spec.kind == "norm" else spec.kind == "conv") * spec.out * spec.bias
    if spec.kind == "norm":
        return LayerCost(0, 0, 12 * vectors, 0, 3 * vectors)
    o, D = spec.shape
    rows, k = (o * spec.depth, spec.entries) if spec.kind == "conv" else (o, D) if layout == "out" else (D, o)
    averaged = average and spec.kind != "conv"
    entries = k * k if averaged else rows * k * k
    if statistic == "sample":
        statistics = _sample_moments(spec, n, positions, rows, k, averaged) + 3 * entries + entries // k - 1
    else:
        statistics = 2 * rows * k - 1 + (2 * rows * k * k + 3 * entries if averaged else 3 * entries + rows * k)
    inverse = block_inverses(entries // (k * k), k)
    return LayerCost(statistics, inverse, 2 * rows * k * k + 12 * vectors, 0, o * D + 2 * entries + 2 * vectors)


def _sample_moments(spec, n, positions, rows, k, averaged):
    """Σ g gᵀ over the samples' gradients, per mini-block or their mean."""
    if spec.kind == "conv":
        samples = _samples_per_block(spec, positions)
        within = sum(_blocks_of(min(samples, n - i), 8 * spec.out * spec.fan_in) for i in range(0, n, samples))
        sums = within + ceil(n / samples) - 1
        return 2 * n * positions * rows * k + 2 * n * rows * k * k + sums * rows * k * k
    if averaged:
        return 2 * n * k * k + 2 * n * rows + n * k + n
    return 2 * n * rows * k * k + n * rows * k


def kfac_layer(spec, n, positions=1, inverse="factored", pi=True):
    """What `KFAC` does for one layer, or for all groups of one; see `LayerCost`. ``inverse`` and ``pi`` as there."""
    if spec.groups > 1:
        groups = [kfac_layer(one, n, positions, inverse, pi) for one in ungrouped((spec,))]
        return LayerCost(*map(sum, zip(*groups, strict=True)))
    o, D = spec.shape
    if spec.kind == "norm":
        return LayerCost(0, 0, 0, 0, o * D)
    rows, squares, once = n * positions, D * D + o * o, o * o * D + o * D * D
    statistics = 2 * rows * squares + (2 + _chunks(spec, n, positions)) * squares + D + o - 2
    state = o * D + 2 * squares
    if inverse == "factored":
        balance = D + o - 2 if pi else 0
        return LayerCost(statistics, block_inverses(1, D) + block_inverses(1, o) + balance, 2 * once, 0, state)
    bases = _eigh(D) + _eigh(o)
    if inverse == "exact":
        return LayerCost(statistics, bases, 4 * once + 3 * o * D, 0, state + D + o)
    moments = 2 * rows * (squares + o * D) + (2 * n * o * D if spec.kind == "conv" else rows * (o + D) + o * D)
    statistics += moments + 5 * o * D - 1
    return LayerCost(
        statistics, bases - 3 * o * D, 4 * once + 2 * o * D, 0, state + D + o + o * D
    )  # nothing to average in a new basis


def _chunks(spec, n, positions):
    """Blocks of samples that a convolution's patches are taken in."""
    return ceil(n / _samples_per_block(spec, positions)) if spec.kind == "conv" else 1


def _samples_per_block(spec, positions):
    return block_length(8 * spec.fan_in * positions, np.empty(0))


def _blocks_of(n, row_bytes):
    return ceil(n / block_length(row_bytes, np.empty(0)))


def _eigh(k):
    """Finiteness, eigenvectors (nominal), and eigenvalues of at least 0."""
    return 9 * k**3 + 4 * k * k + 3 * k - 3


def shampoo_layer(spec, n=1, positions=1, reshape="filter"):
    """What `Shampoo` with roots by eigendecomposition does for one layer; see `LayerCost`. Does not depend on the batch."""

    def roots(shape):
        measured = 16 * len(shape) + 21  # of the errors, by products with four vectors
        return sum(_eigh(k) + 2 * k**3 + (measured + 2) * k * k + 28 * k - 1 for k in shape)

    return _tensors(spec, reshape, roots)


def tnt_layer(spec, n=1, positions=1, reshape="filter"):
    """What `TNT` does for one layer; see `LayerCost`. Does not depend on the batch."""

    def inverse(shape):
        scaled = sum(k * k for k in shape) if len(shape) > 1 else 0
        return shape[0] - 1 + scaled + sum(k * k - 1 + block_inverses(1, k) for k in shape)

    return _tensors(spec, reshape, inverse)


def _tensors(spec, reshape, inverse):
    """A method with a matrix for every axis of every variable."""
    shapes = _variables(spec, reshape)
    products = sum(2 * prod(shape) * sum(shape) for shape in shapes)
    squares = sum(k * k for shape in shapes for k in shape)
    entries = sum(map(prod, shapes))
    statistics = products + 2 * squares + entries + sum(shape[0] - 1 for shape in shapes)
    return LayerCost(statistics, sum(map(inverse, shapes)), products, 0, entries + 2 * squares)


def _variables(spec, reshape):
    """Shapes of the variables of one layer: weights, then bias."""
    if spec.kind == "norm":
        return [(spec.out,)] * (1 + spec.bias)
    kernels = (spec.depth, spec.entries) if spec.kind == "conv" and reshape == "filter" else (spec.fan_in,)
    return [(spec.out, *kernels)] + [(spec.out,)] * spec.bias


def kbfgs_layer(spec, n, positions=1, damped=0):
    """What `KBFGS` does for one layer, in a step that updates both factors; see `LayerCost`. ``damped``: dampings of the pair."""
    o, D = spec.shape
    if spec.kind == "norm":
        return LayerCost(0, 0, 0, 0, o * D)
    updates = _pairs(spec, n, positions, damped) + 2 * o * o + _bfgs(o)
    return LayerCost(_inputs(spec, n, positions), 0, 2 * o * o * D + 2 * o * D * D, updates, o * D + 2 * D * D + o * o + 2 * o)


def kbfgsl_layer(spec, n, positions=1, damped=0, pairs=KBFGSL.memory):
    """What `KBFGSL` with ``pairs`` pairs does for one layer; see `kbfgs_layer`."""
    (o, D), h = spec.shape, pairs
    if spec.kind == "norm":
        return LayerCost(0, 0, 0, 0, o * D)
    updates = _pairs(spec, n, positions, damped) + _compact(h, o, 1) + 4 * o
    return LayerCost(
        _inputs(spec, n, positions), 0, _compact(h, o, D) + 2 * o * D * D, updates, o * D + 2 * D * D + 2 * h * o + 2 * o
    )


def _inputs(spec, n, positions):
    """The second moment of the inputs, averaged."""
    D = spec.shape[1]
    return 2 * n * positions * D * D + (3 + _chunks(spec, n, positions)) * D * D + D - 1


def _pairs(spec, n, positions, damped):
    """The pair of one layer, damped, from means before and after the step; and the update of the input factor."""
    (o, D), rows = spec.shape, n * positions
    means = rows * (D + o) + rows * (D + o if spec.kind == "conv" else spec.inp + o) + 4 * rows * o - 2  # and sizes of g
    means += 2 * (_chunks(spec, n, positions) - 1) * (D + o)
    track = _bfgs(D) + 4 * D * D + 4 * D
    return means + 4 * o * D + 20 * o - 1 + 3 * damped * o + track


def _bfgs(k):
    """`linalg.bfgs_update`."""
    return 9 * k * k + 11 * k - 1


def _compact(h, o, k):
    """`linalg.compact_product` of h pairs (o,) and a matrix (o, k)."""
    return 8 * h * o * k + 4 * h * h * (o + k) + 3 * h * k + 2 * o * k


LAYERS = {
    "mini-block-fisher": mini_block_fisher_layer,
    "kfac": kfac_layer,
    "shampoo": shampoo_layer,
    "tnt": tnt_layer,
    "kbfgs": kbfgs_layer,
    "kbfgs-l": kbfgsl_layer,
}


def layerwise_step(name, net, layers, statistics_due=False, inverse_due=False, ranks=1, **options):
    """Flops of one step of a layer-wise method under the squared loss, by part; not of the first step.

    Parameters
    ----------
    name : str
        A key of `LAYERS`.
    net : NetworkCost
        Of `mlp` or `autoencoder`, or of `two_layer`, whose weights are one layer (m, d) without a bias.
    layers : tuple of LayerSpec
        Its layers, as of `dense_layers` or ``network.layers``.
    statistics_due, inverse_due : bool
        Whether statistics, and inverses or roots, are due.
    ranks : int
        How many make the inverses, and large directions, of `KFAC`: the flops are those of the one that makes most.
    **options
        For the function of `LAYERS`.

    Returns
    -------
    dict[str, int]
        checks, forward, gradient, update as of a step of first order; statistics, labels (the pass at drawn ones), inverse,
        direction; updates and second pass of the quasi-Newton methods. Parts that a method does not have are 0.
    """
    costs = [LAYERS[name](spec, net.samples, **options) for spec in layers]
    total = LayerCost(*map(sum, zip(*costs, strict=True)))
    quasi_newton, momentum = name.startswith("kbfgs"), 2 * net.parameters
    step = first_order_step(net, 2 * momentum)
    if quasi_newton:  # the average form of momentum; traces instead of gradients
        step["update"] += net.parameters
    if quasi_newton or (options.get("statistic") == "sample" and statistics_due):
        step["gradient"] = net.signals + 2 * net.samples * net.parameters + net.parameters + net.rows
    passes = {"kfac": 3 * net.rows + net.signals - net.slopes, "tnt": 4 * net.rows + net.gradient - net.slopes}
    return {
        **step,
        "statistics": statistics_due * (total.statistics + (net.loss_rows > net.rows) * sum(map(_packing, layers))),
        "labels": statistics_due * passes.get(name, 0),
        "inverse": inverse_due * _of_one([cost.inverse for cost in costs], layers, ranks),
        "direction": _of_one([cost.direction for cost in costs], layers, ranks, WORTH),
        "updates": total.updates,
        "second pass": quasi_newton * (check_flops(net) + net.forward + loss_flops(net) + net.rows + net.signals),
    }


def _packing(spec):
    """What both factors of a layer take to be packed, and unpacked: two sums of the triangles on their diagonals."""
    return sum(2 * ((k - k // 2) ** 2 + (k // 2) ** 2) for k in spec.shape)


def _of_one(flops, layers, ranks, least=0):
    """Of ``flops`` by layer those of the rank with most of them, as `nearlin.linalg.dealt` deals them out; ``least`` as there."""
    shapes = [spec.shape for spec in layers]
    work = [2 * (D**3 + o**3) + (o * D * D if least else 0) for o, D in shapes]
    if ranks == 1 or len(work) < 2 or sum(work) < least:
        return sum(flops)
    return largest_share(flops, work, ranks)


def amortised_step(name, net, layers, statistics_every, inverse_every, **options):
    """Mean flops of a step of a layer-wise method, its statistics and inverses spread over the steps between them; a Fraction."""

    def total(**due):
        return sum(layerwise_step(name, net, layers, **due, **options).values())

    plain = total()
    statistics, inverse = total(statistics_due=True) - plain, total(inverse_due=True) - plain
    return plain + Fraction(statistics, statistics_every) + Fraction(inverse, inverse_every)
