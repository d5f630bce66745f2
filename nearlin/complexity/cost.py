r"""Flops and bytes in closed form, before anything runs; tests hold every formula equal to the count, to the flop.

The cost model is that of `nearlin.complexity.counting`: matrix products 2 m n k (A Aᵀ in full, where a rank-k update does half),
one flop per entry of elementwise operations and comparisons. Sizes: n samples, d inputs, m neurons, c outputs, p parameters,
s sketch rows, K inner iterations; N = n m d. Leading terms (ReLU):

    forward                2 N + 4 n m              J v, Jᵀu     2 N                 J Jᵀu          4 N
    structured Gram        2 n² (m + d)             neuron-mode sketch  2 n m        its Gram       2 n² (m' + d)
    Kronecker sketch       at most 8 n M log₂ M + 8 n D log₂ D + 3 n s σ, M and D the next powers of two
    factorisation          n³/3                     triangular solves   2 n²

A library that fills the symmetric half of a Gram matrix alone needs n² (m + d) for it. Walks over neurons go by blocks of
``block`` neurons; each block costs O(n d) more.

Networks of two kinds are known: the wide two-layer network, by plain functions of its sizes, and perceptrons (`mlp`,
`autoencoder`) under the squared loss. Both make a `NetworkCost`, from which the functions named ``..._step`` make the flops of a
step by part: a dict whose values add up to the count. The functions named ``..._layer`` are what a layer-wise method adds for one
dense or convolutional layer.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import pairwise
from math import ceil, prod
from typing import NamedTuple

import numpy as np

from nearlin._array import block_length
from nearlin.linalg.block_inverse import GROUP, STACKED, SWEPT
from nearlin.linalg.hadamard import _factor_bits, next_power_of_two
from nearlin.nn.layers import LayerSpec
from nearlin.nn.two_layer import _width_of_block

FUNCTION = {"relu": 1, "tanh": 1, "sigmoid": 7, "softplus": 6, "identity": 0}  # flops per entry of phi
DERIVATIVE = {"relu": 1, "tanh": 3, "sigmoid": 9, "softplus": 7, "identity": 0}  # and of phi'
NEURON_OVERSAMPLING = 1.5  # sketch rows over n c, the default of NeuronSigns
KRONECKER_OVERSAMPLING = 4  # and of KroneckerSRHT
GROUP_BYTES = 2**27  # masks that one rank-k update of the Gram matrix takes


# ----------------------------------------------------------------------------------------- the wide two-layer network


def neurons_per_block(n, dtype="float64"):
    """Neurons of one block of the walks on a CPU, for ``n`` samples."""
    return _width_of_block(np.empty((n, 0), dtype=dtype))


def _blocks(n, m, block):
    return ceil(m / (block or neurons_per_block(n)))


def _slope(n, d, m, activation):
    """phi' of all neurons: read from the masks for ReLU, made anew otherwise."""
    return 0 if activation == "relu" else 2 * n * m * d + DERIVATIVE[activation] * n * m


def forward(n, d, m, block=None, activation="relu"):
    """Outputs and masks: 2 n m d + 4 n m + 2 m d + 3 m + blocks (2 n d + 3 n) + n for ReLU.

    Parameters
    ----------
    n, d, m : int
        Samples, inputs, neurons.
    block : int, optional
        Neurons per block; by default `neurons_per_block` in float64.
    activation : str

    Returns
    -------
    int
        Flops. The terms are x Wᵀ; |z|, |z| a and z > 0; a W and the signs; x (a W) and the sums; and the scale.
    """
    blocks = _blocks(n, m, block)
    if activation == "relu":
        walk = 2 * n * m * d + 4 * n * m + 2 * m * d + 3 * m + blocks * (2 * n * d + 3 * n)
    else:
        walk = 2 * n * m * d + (FUNCTION[activation] + 2) * n * m + 3 * m + blocks * n
    return walk + n


def matvec(n, d, m, block=None, activation="relu"):
    """J v: 2 n m d + m d + 3 m + (blocks + 2) n d."""
    return 2 * n * m * d + m * d + 3 * m + (_blocks(n, m, block) + 2) * n * d + _slope(n, d, m, activation)


def rmatvec(n, d, m, activation="relu"):
    """Jᵀ u: 2 n m d + m d + 3 m + n d + n."""
    return 2 * n * m * d + m * d + 3 * m + n * d + n + _slope(n, d, m, activation)


def gram_matvec(n, d, m, block=None, activation="relu"):
    """J Jᵀ u, and Jᵀ u: 4 n m d + m d + 3 m + (blocks + 3) n d + n, in one walk."""
    return 4 * n * m * d + m * d + 3 * m + (_blocks(n, m, block) + 3) * n * d + n + _slope(n, d, m, activation)


def gram(n, d, m, block=None, activation="relu"):
    """The structured Gram matrix: 2 n² (m + d) + (groups + 2) n², groups of blocks of 128 MB in all."""
    width = min(block or neurons_per_block(n), m)
    groups = ceil(_blocks(n, m, block) / max(1, GROUP_BYTES // (8 * n * width)))
    return 2 * n * n * (m + d) + (groups + 2) * n * n + _slope(n, d, m, activation)


def neuron_sketch(n, m, s, block=None):
    """M' = M S₁ᵀ for `NeuronSigns` with ``s`` rows asked for: 2 n m + 2 n m' where blocks end at groups of g > 1.

    g = max(1, m // s) neurons make a group, m' = ⌈m/g⌉. The exact number depends on how blocks cut groups: a piece
    of l > 1 neurons costs 2 n l + n, one neuron alone 2 n, and every sketched neuron n for the scale.
    """
    g, width = max(1, m // s), block or neurons_per_block(n)
    return n * _signed_sums(m, g, width) + n * _pieces(m, g, width) + n * ceil(m / g)


def _signed_sums(m, g, width):
    """Flops per sample of signed sums over groups of g of m neurons, cut into blocks."""
    if g == 1:
        return m
    cuts = sorted({*range(0, m, g), *range(0, m, width), m})
    return sum(2 * (j - i) if j - i > 1 else 1 for i, j in pairwise(cuts))


def _pieces(m, g, width):
    """Sums that blocks contribute."""
    return len({*range(0, m, g), *range(0, m, width)})


def sketched_gram(n, d, rows):
    """(X Xᵀ) ∘ (M' M'ᵀ) for m' = ``rows`` sketched neurons: 2 n² (m' + d) + n²."""
    return 2 * n * n * (rows + d) + n * n


def sketched_neurons(m, s):
    """m' = ⌈m / max(1, m // s)⌉, the sketched neurons of `NeuronSigns` when ``s`` are asked for."""
    return ceil(m / max(1, m // s))


def kronecker_sketch(n, d, m, s, oversample=4):
    """Rows of `KroneckerSRHT` from the factors (n, m) and (n, d): two transforms, n (m + d) signs and 3 n s σ sums.

    At most 8 n M log₂ M + 8 n D log₂ D + n (m + d) + 3 n s σ, M and D the next powers of two, beside the signs of the
    transforms' factors; equal where M and D are powers of 16.
    """
    return transform(m, n) + transform(d, n) + n * (m + d + 3 * s * oversample)


def transform(width, columns):
    """`linalg.fwht` of vectors padded to N: 2 k flops an entry for every factor of k points, and the factors' signs."""
    length = next_power_of_two(width)
    factors = [2**bits for bits in _factor_bits(length.bit_length() - 1)]
    return 2 * columns * length * sum(factors) + _signs(factors)


def _signs(factors):
    """Negations that make Sylvester's matrices of these sizes."""
    return sum((k * k - 1) // 3 for k in factors)


def factorisation(n):
    """R of G̃ + λ I by Cholesky: n (n + 1) (2n + 1) / 6 + n, for n c rows in place of n with c outputs."""
    return n * (n + 1) * (2 * n + 1) // 6 + n


def triangular_solves(n):
    """M⁻¹ r = R⁻¹R⁻ᵀ r: 2 n²."""
    return 2 * n * n


# -------------------------------------------------------------------------------------------- networks as oracles


class NetworkCost(NamedTuple):
    """Flops of what a network is asked for, and the sizes that optimizers add to them.

    Attributes
    ----------
    samples, rows, inputs, parameters, matrices : int
        n, n c, n d, p, and the number of parameter arrays.
    forward, jacobian, gradient, matvec, rmatvec, gram_matvec, gram : int
        One forward pass; making the Jacobian operator; the gradient from output gradients; products; the Gram matrix.
    neurons, kronecker : callable
        Flops of drawing, sketching and the sketched Gram matrix, as functions of s.
    slopes : int
        Of ``gradient``, those of the activations' derivatives, which further passes from the same forward pass find made.
    """

    samples: int
    rows: int
    inputs: int
    parameters: int
    matrices: int
    forward: int
    jacobian: int
    gradient: int
    matvec: int
    rmatvec: int
    gram_matvec: int
    gram: int
    neurons: Callable
    kronecker: Callable
    slopes: int = 0


def two_layer(n, d, m, block=None, activation="relu"):
    """The `NetworkCost` of `nn.TwoLayer` with ``d`` inputs and ``m`` neurons on ``n`` samples."""
    sizes = {"block": block, "activation": activation}
    adjoint = rmatvec(n, d, m, activation)
    return NetworkCost(
        n, n, n * d, m * d, 1, forward(n, d, m, **sizes), 2 * n * d, adjoint, matvec(n, d, m, **sizes), adjoint,
        gram_matvec(n, d, m, **sizes), gram(n, d, m, **sizes),
        partial(_two_layer_neurons, n, d, m, block, activation), partial(_two_layer_kronecker, n, d, m, activation),
    )  # fmt: skip


def _two_layer_neurons(n, d, m, block, activation, s):
    return neuron_sketch(n, m, s, block) + sketched_gram(n, d, sketched_neurons(m, s)) + _slope(n, d, m, activation)


def _two_layer_kronecker(n, d, m, activation, s, oversample=4):
    chunks = ceil(n / max(1, 2**23 // (m + d)))  # samples are sketched some at a time, and signs made for each
    factors = 2 * n * m + 3 * m * chunks + _slope(n, d, m, activation)
    again = (chunks - 1) * (transform(m, 0) + transform(d, 0))  # the transforms' factors, for each
    return factors + again + oversample * s + kronecker_sketch(n, d, m, s, oversample) + n * s + 2 * n * n * s


def mlp(n, sizes, activation="tanh", linear=()):
    """The `NetworkCost` of `nn.MLP` with ``sizes`` = (d, widths, c) on ``n`` samples; positions ``linear`` have no activation."""
    layers = [(out, inp + 1) for inp, out in pairwise(sizes)]
    nc, p = n * sizes[-1], sum(out * inp for out, inp in layers)
    hidden = n * sum(width for i, width in enumerate(sizes[:-1]) if i not in (0, *linear))
    products = n * sum(inp * out for inp, out in pairwise(sizes))
    unused = 2 * n * sizes[0] * sizes[1]  # the first layer's input gradient is not formed
    slopes = DERIVATIVE[activation] * hidden  # made by the first pass that asks, and kept for others
    signals = products * 2 - unused + hidden + slopes  # one backward pass
    left = 2 * nc * sum(out for out, _ in layers)  # signals against a vector
    matvec = 2 * n * p + left + nc * len(layers)
    rmatvec = 2 * n * p + left
    gram = sum(_hadamard(n, nc, inp, out) for out, inp in layers) + nc * nc * (len(layers) - 1)
    return NetworkCost(
        n, nc, n * sizes[0], p, len(layers), 2 * products + n * sum(sizes[1:]) + FUNCTION[activation] * hidden,
        sizes[-1] * signals - (sizes[-1] - 1) * slopes, signals + 2 * n * p, matvec, rmatvec, matvec + rmatvec, gram,
        partial(_mlp_neurons, n, nc, layers), partial(_mlp_kronecker, nc, layers), slopes,
    )  # fmt: skip


def autoencoder(n, sizes, activation="relu"):
    """The `NetworkCost` of `nn.autoencoder` with ``sizes`` = (d, widths, code) on ``n`` samples; see `mlp`."""
    return mlp(n, (*sizes, *sizes[-2::-1]), activation, linear=(len(sizes) - 1,))


def _hadamard(n, nc, inp, out):
    """(A Aᵀ ⊗ 1 1ᵀ) ∘ (Δ Δᵀ): 2 n² inp + 2 (n c)² out + (n c)²."""
    return 2 * n * n * inp + 2 * nc * nc * out + nc * nc


def _mlp_neurons(n, nc, layers, s):
    total = (len(layers) - 1) * nc * nc
    for out, inp in layers:
        total += nc * _signed_sums(out, max(1, out // s), out) + _hadamard(n, nc, inp, sketched_neurons(out, s))
    return total


def _mlp_kronecker(nc, layers, s, oversample=4):
    rows = sum(kronecker_sketch(nc, inp, out, s, oversample) + oversample * s + nc * s for out, inp in layers)
    return rows + 2 * nc * nc * s


# ------------------------------------------------------------------------------------------------------ steps, by part


def _dot(k):
    """Inner product or norm."""
    return 2 * k - 1


def _norms(net):
    """Norms of the parameter arrays, one by one."""
    return 2 * net.parameters - net.matrices


def _entries(net):
    """Entries of parameters and batch, and the number of arrays."""
    return net.parameters + net.inputs + net.rows, net.matrices + 2


def _checks(net):
    """Finiteness of parameters and batch, at the public boundary."""
    entries, arrays = _entries(net)
    return 3 * entries - arrays


def _comparison(net):
    """Whether parameters and batch are those of the last step."""
    entries, arrays = _entries(net)
    return 2 * entries - arrays


def _loss(net):
    return 3 * net.rows


def _attempt(net, known_loss):
    """Trial parameters, the decreases, and a forward pass there."""
    vectors = 2 * net.parameters + _norms(net) + 2 * _dot(net.rows) + 2 * net.rows
    return vectors + _checks(net) + net.forward + _loss(net) + (0 if known_loss else _loss(net))


def near_linear_step(net, iterations, fresh=True, recalled=False, sketch_rows=None, sketch="neurons", replaced=False):
    """Flops of one `NearLinearGaussNewton` step, by part.

    Parameters
    ----------
    net : NetworkCost
    iterations : int
        K, the iterations of PCG in this step, at least 1.
    fresh : bool
        Whether R is built in this step, or that of an earlier one serves.
    recalled : bool
        Whether the point is the trial point of the step before (every step of a run on the full batch but the first).
    sketch_rows : int, optional
        s; by default what the distribution recommends.
    sketch : str
        ``"neurons"`` (`NeuronSigns`) or ``"kronecker"`` (`KroneckerSRHT`).
    replaced : bool
        Whether the fresh R replaces one that was kept, which is looked at first.

    Returns
    -------
    dict[str, int]
        checks, forward, jacobian, sketch, factorisation, products, triangular solves, vectors, certificate, guard. For one
        attempt and one inner solve, in the working dtype.
    """
    k, r, K = net.rows, net.parameters, iterations
    same_inputs = 2 * net.inputs - 1
    return {
        "checks": (_comparison(net) if recalled else _checks(net)) + (replaced or not fresh) * same_inputs,
        "forward": 0 if recalled else net.forward,
        "jacobian": net.jacobian,
        "sketch": _sketch(net, sketch, sketch_rows) + k - 1 if fresh else 0,
        "factorisation": factorisation(k) if fresh else 0,
        "products": K * net.gram_matvec,
        "triangular solves": K * triangular_solves(k),
        "vectors": _cg(k, r, K) + 4 * _dot(k) + 2 * k,
        "certificate": net.matvec + 3 * k + 2 * _dot(k),
        "guard": _attempt(net, known_loss=recalled),
    }


def _sketch(net, name, rows):
    if name not in ("neurons", "kronecker"):
        raise ValueError(f"sketch is {name!r}; expected 'neurons' or 'kronecker'")
    oversampling = NEURON_OVERSAMPLING if name == "neurons" else KRONECKER_OVERSAMPLING
    return getattr(net, name)(ceil(oversampling * net.rows) if rows is None else rows)


def _cg(n, p, K):
    """Vector operations of K iterations of PCG on J Jᵀ + λ I that also accumulate Jᵀg."""
    each = 6 * n + 2 * _dot(n) + p  # λ v, x, r; curvature and norm; α Jᵀv
    between = 2 * n + _dot(n) + 2 * p  # p ← z + β p; <r, z>; the sum of the α Jᵀv
    return 2 * _dot(n) + K * each + (K - 1) * between


def gram_gauss_newton_step(net):
    """Flops of one `GramGaussNewton` step by part, for one attempt: checks, forward, ..., guard; see `near_linear_step`."""
    k = net.rows
    return {
        "checks": _checks(net),
        "forward": net.forward + _loss(net) + k + 3 * _dot(k),
        "jacobian": net.jacobian,
        "gram": net.gram + k * k + k - 1,
        "factorisation": factorisation(k),
        "triangular solves": triangular_solves(k),
        "update": net.rmatvec,
        "certificate": net.matvec + 4 * k + _dot(k),
        "guard": _attempt(net, known_loss=True),
    }


def natural_gradient_step(net):
    """Flops of one `NaturalGradient` step with its default damping, by part; see `near_linear_step`."""
    k = net.rows
    return {
        "checks": _checks(net),
        "forward": net.forward + _loss(net) + k,
        "jacobian": net.jacobian,
        "gram": net.gram + k - 1,
        "factorisation": factorisation(k),
        "triangular solves": triangular_solves(k),
        "update": net.rmatvec + 2 * net.parameters + _norms(net),
        "certificate": net.matvec + 3 * k + 3 * _dot(k),
    }


def sgd_step(net, first=False):
    """Flops of one `SGD` step by part; the ``first`` has no velocity yet."""
    velocity = 0 if first else 2 * net.parameters
    return _first_order(net, velocity + 2 * net.parameters)


def adam_step(net, first=False):
    """Flops of one `Adam` step by part: 13 p for the update; the ``first`` has no moments yet."""
    return _first_order(net, (9 if first else 13) * net.parameters + _norms(net))


def adamw_step(net, first=False):
    """Flops of one `AdamW` step by part: 14 p for the update and the decay; the ``first`` has no moments yet."""
    return _first_order(net, (10 if first else 14) * net.parameters + _norms(net))


def adagrad_step(net, first=False):
    """Flops of one `AdaGrad` step by part; the ``first`` has no sum of squares yet."""
    return _first_order(net, (6 if first else 7) * net.parameters + _norms(net))


def rmsprop_step(net, first=False):
    """Flops of one `RMSprop` step by part; the ``first`` has no average yet."""
    return _first_order(net, (7 if first else 9) * net.parameters + _norms(net))


def _first_order(net, update):
    return {
        "checks": _checks(net),
        "forward": net.forward + _loss(net),
        "gradient": net.gradient + 2 * net.rows,
        "update": update + _norms(net),
    }


# ------------------------------------------------------------------------------------- layer-wise methods, layer by layer


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
    rows, k = (o * spec.inp, spec.kernel**2) if spec.kind == "conv" else (o, D) if layout == "out" else (D, o)
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
    """What `KFAC` does for one layer; see `LayerCost`. ``inverse`` and ``pi`` as there."""
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
    return 9 * k**3 + 5 * k * k + 3 * k - 3


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
    kernels = (spec.inp, spec.kernel**2) if spec.kind == "conv" and reshape == "filter" else (spec.fan_in,)
    return [(spec.out, *kernels)] + [(spec.out,)] * spec.bias


def kbfgs_layer(spec, n, positions=1, damped=0):
    """What `KBFGS` does for one layer, in a step that updates both factors; see `LayerCost`. ``damped``: dampings of the pair."""
    o, D = spec.shape
    if spec.kind == "norm":
        return LayerCost(0, 0, 0, 0, o * D)
    updates = _pairs(spec, n, positions, damped) + 2 * o * o + _bfgs(o)
    return LayerCost(_inputs(spec, n, positions), 0, 2 * o * o * D + 2 * o * D * D, updates, o * D + 2 * D * D + o * o + 2 * o)


def kbfgsl_layer(spec, n, positions=1, damped=0, pairs=100):
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


def layerwise_step(name, net, layers, statistics_due=False, inverse_due=False, **options):
    """Flops of one step of a layer-wise method on a perceptron under the squared loss, by part; not of the first step.

    Parameters
    ----------
    name : str
        A key of `LAYERS`.
    net : NetworkCost
        Of `mlp` or `autoencoder`.
    layers : tuple of LayerSpec
        Its layers, as of `dense_layers`.
    statistics_due, inverse_due : bool
        Whether statistics, and inverses or roots, are due.
    **options
        For the function of `LAYERS`.

    Returns
    -------
    dict[str, int]
        checks, forward, gradient, update as of a step of first order; statistics, labels (the pass at drawn ones), inverse,
        direction; updates and second pass of the quasi-Newton methods. Parts that a method does not have are 0.
    """
    total = LayerCost(*map(sum, zip(*(LAYERS[name](spec, net.samples, **options) for spec in layers), strict=True)))
    quasi_newton, momentum = name.startswith("kbfgs"), 2 * net.parameters
    step = _first_order(net, 2 * momentum)
    if quasi_newton:  # the average form of momentum; traces instead of gradients
        step["update"] += net.parameters
        step["gradient"] += net.parameters - net.rows
    elif options.get("statistic") == "sample" and statistics_due:
        step["gradient"] += net.parameters - net.rows
    passes = {"kfac": 3 * net.rows + _signals(net) - net.slopes, "tnt": 4 * net.rows + net.gradient - net.slopes}
    return {
        **step,
        "statistics": statistics_due * total.statistics,
        "labels": statistics_due * passes.get(name, 0),
        "inverse": inverse_due * total.inverse,
        "direction": total.direction,
        "updates": total.updates,
        "second pass": quasi_newton * (_checks(net) + net.forward + _loss(net) + net.rows + _signals(net)),
    }


def _signals(net):
    """A backward pass of a perceptron without the gradients of its parameters."""
    return net.gradient - 2 * net.samples * net.parameters


def amortised_step(name, net, layers, statistics_every, inverse_every, **options):
    """Mean flops of a step of a layer-wise method, its statistics and inverses spread over the steps between them; a Fraction."""

    def total(**due):
        return sum(layerwise_step(name, net, layers, **due, **options).values())

    plain = total()
    statistics, inverse = total(statistics_due=True) - plain, total(inverse_due=True) - plain
    return plain + Fraction(statistics, statistics_every) + Fraction(inverse, inverse_every)


# ----------------------------------------------------------------------------- memory of a two-layer step, by part, in bytes


class Memory(NamedTuple):
    """Sizes that the memory of a step of the two-layer network is made of, in bytes."""

    data: int
    weights: int
    masks: int
    square: int
    block: int
    item: int

    @property
    def walk(self):
        """A forward walk: z, |z| and the mask of the blocks in flight."""
        return 2 * self.block + self.block // self.item


def _memory(n, d, m, dtype, packed, workers, activation):
    item, width = np.dtype(dtype).itemsize, min(m, neurons_per_block(n, dtype))
    masks = n * (ceil(m / 8) if packed else m) if activation == "relu" else 0
    return Memory(item * n * (d + 1), item * m * d, masks, item * n * n, workers * item * n * width, item)


def near_linear_memory(
    n, d, m, dtype="float64", packed=True, fresh=True, recalled=True, sketch_rows=None, workers=1, activation="relu"
):
    """Bytes of one `NearLinearGaussNewton` step with neuron-mode sketch on a two-layer network, by part.

    Parameters
    ----------
    n, d, m : int
        Samples, inputs, neurons.
    dtype : str
    packed : bool
        Masks in bits (NumPy) or in bytes (other backends).
    fresh, recalled : bool
        As in `near_linear_step`. A fresh R beside a recalled point replaces an older one.
    sketch_rows : int, optional
        s; by default 1.5 n.
    workers : int
        Blocks walked at the same time.
    activation : str

    Returns
    -------
    dict[str, int]
        What is held through the step (data, parameters, recall, masks, preconditioner), and ``work``: the largest of what
        building R, the iterations and the guard need beside it. The sum is near the peak: measured ones are 0 to 25 % smaller.
    """
    size = _memory(n, d, m, dtype, packed, workers, activation)
    rows = sketched_neurons(m, ceil(NEURON_OVERSAMPLING * n) if sketch_rows is None else sketch_rows)
    inputs = size.item * n * d
    build = size.item * n * rows + size.item * m + max(2 * size.square, 2 * size.block) - size.square if fresh else 0
    iterations = max(5 * size.weights, 4 * size.weights + 2 * size.block)
    guard = 2 * size.weights + size.masks + max(size.walk, size.weights + size.data)
    return {
        "data": size.data,
        "parameters": size.weights,
        "recall": size.weights + size.data if recalled else 0,
        "masks": size.masks,
        "preconditioner": (1 + (fresh and recalled)) * (size.square + inputs),
        "work": max(build, iterations, guard),
    }


def gram_memory(n, d, m, dtype="float64", packed=True, workers=1, activation="relu"):
    """Bytes of one `GramGaussNewton` or `NaturalGradient` step on a two-layer network, by part; see `near_linear_memory`."""
    size = _memory(n, d, m, dtype, packed, workers, activation)
    floats = size.item * n * m
    group = min(floats, max(GROUP_BYTES * size.item // 8, size.block // workers))
    form = 2 * group + (size.square if group < floats else 0)
    guard = 3 * size.weights + size.masks + size.walk
    return {
        "data": size.data,
        "parameters": size.weights,
        "masks": size.masks,
        "n x n": 2 * size.square,
        "work": max(form, guard),
    }


FIRST_ORDER = {"sgd": (1, 4), "adam": (2, 9), "adamw": (2, 9), "adagrad": (1, 5), "rmsprop": (1, 6)}  # arrays kept, and at work


def first_order_memory(n, d, m, dtype="float64", optimizer="sgd", packed=True, workers=1, activation="relu"):
    """Bytes of one step of a method of first order, a key of `FIRST_ORDER`, on a two-layer network; see `near_linear_memory`."""
    size = _memory(n, d, m, dtype, packed, workers, activation)
    moments, temporaries = FIRST_ORDER[optimizer]
    return {
        "data": size.data,
        "parameters": size.weights,
        "state": moments * size.weights,
        "masks": size.masks,
        "work": max(size.walk, 2 * size.block + size.weights, temporaries * size.weights),
    }
