r"""Flops of the kernels of the wide two-layer network, and of the sketches and factorisations that are made from them."""

from itertools import pairwise
from math import ceil

import numpy as np

from nearlin._array import Unmade
from nearlin.linalg.hadamard import factor_bits, next_power_of_two
from nearlin.nn.two_layer_blocks import blocks_of_neurons, samples_of_tile, shares, undivided, width_of_block
from nearlin.nn.two_layer_jacobian import GROUP_BYTES
from nearlin.sketch import KroneckerSRHT, NeuronSigns

FUNCTION = {"relu": 1, "tanh": 1, "sigmoid": 7, "softplus": 6, "identity": 0}  # flops per entry of phi
DERIVATIVE = {"relu": 1, "tanh": 3, "sigmoid": 9, "softplus": 7, "identity": 0}  # and of phi'


def neurons_per_block(n, dtype="float64", on_gpu=False):
    """Neurons of one block of the walks, for ``n`` samples."""
    return width_of_block(Unmade((n, 0), np.dtype(dtype), on_gpu))


def walked(n, m, block=None, outputs=1):
    """Slices of neurons that one walk over all ``m`` goes by."""
    return blocks_of_neurons(m, outputs, block or neurons_per_block(n))


def tiles_in_sums(n, m, block=None, outputs=1, dtype="float64"):
    """Tiles of samples of which a sum over all of them is made."""
    x = Unmade((n, 0), np.dtype(dtype), on_gpu=False)
    return 1 if undivided(x) else ceil(n / samples_of_tile(x, walked(n, m, block, outputs)[0].stop))


def sign_flops(n, m, block=None, outputs=1):
    """3 w + 3 for the signs of one walk, blocks of at most w neurons."""
    return 3 * max(neurons.stop - neurons.start for neurons in walked(n, m, block, outputs)) + 3


def slope_flops(n, d, m, activation):
    """Flops of phi' of all neurons, which ReLU reads from its masks and others make anew."""
    return 0 if activation == "relu" else 2 * n * m * d + DERIVATIVE[activation] * n * m


def forward(n, d, m, block=None, activation="relu", outputs=1):
    """Outputs and masks: 2 n m d + 4 n m + 2 m d + 3 w + 3 + blocks (2 n d + 3 n) for ReLU, w the neurons of a block.

    Parameters
    ----------
    n, d, m : int
        Samples, inputs, neurons.
    block : int, optional
        Neurons per block; by default `neurons_per_block` in float64.
    activation : str
    outputs : int
        c.

    Returns
    -------
    int
        Flops. The terms are x Wᵀ; |z|, |z| a and z > 0; a W and the signs (`sign_flops`); x (a W) and the sums; and the scale.
    """
    blocks = len(walked(n, m, block, outputs))
    if activation == "relu":
        walk = 2 * n * m * d + 4 * n * m + 2 * m * d + blocks * (2 * n * d + 3 * n)
    else:
        walk = 2 * n * m * d + (FUNCTION[activation] + 2) * n * m + blocks * n
    return walk + sign_flops(n, m, block, outputs)  # the sums of c outputs save what the scale costs them


def matvec(n, d, m, block=None, activation="relu", outputs=1):
    """J v: 2 n m d + m d + 3 w + 3 + (blocks + c) n d."""
    sums = len(walked(n, m, block, outputs)) + outputs
    beside = sign_flops(n, m, block, outputs) + slope_flops(n, d, m, activation)
    return 2 * n * m * d + m * d + sums * n * d + beside


def rmatvec(n, d, m, block=None, activation="relu", outputs=1, dtype="float64"):
    """Jᵀ u: 2 n m d + t m d + 3 w + 3 + c (n d + n) for sums of t `tiles_in_sums`."""
    tiles = tiles_in_sums(n, m, block, outputs, dtype)
    beside = sign_flops(n, m, block, outputs) + slope_flops(n, d, m, activation)
    return 2 * n * m * d + tiles * m * d + outputs * (n * d + n) + beside


def gram_matvec(n, d, m, block=None, activation="relu", outputs=1, dtype="float64"):
    """J Jᵀ u, and Jᵀ u: 4 n m d + t m d + 3 w + 3 + (blocks + 2 c) n d + n c, in one walk; see `rmatvec`.

    Slopes that are not read from masks are made twice where t > 1.
    """
    sums, tiles = len(walked(n, m, block, outputs)) + 2 * outputs, tiles_in_sums(n, m, block, outputs, dtype)
    beside = sign_flops(n, m, block, outputs) + min(tiles, 2) * slope_flops(n, d, m, activation)
    return 4 * n * m * d + tiles * m * d + sums * n * d + n * outputs + beside


def gram(n, d, m, block=None, activation="relu", outputs=1):
    """The structured Gram matrix: 2 n² (m + d) + (groups + 2 c) n², groups of blocks of 128 MB in all."""
    per_group = max(1, GROUP_BYTES // (8 * n * walked(n, m, block, outputs)[0].stop))
    each = [len(walked(n, own.stop - own.start, block)) for own in shares(m, outputs)]
    groups = sum(ceil(blocks / per_group) for blocks in each)
    return 2 * n * n * (m + d) + (groups + 2 * outputs) * n * n + slope_flops(n, d, m, activation)


def sketch_rows(n):
    """Rows that `NeuronSigns` recommends for n samples."""
    return ceil(NeuronSigns.oversampling * n)


def neuron_sketch(n, m, s, block=None, outputs=1, of=None):
    """M' = M S₁ᵀ for `NeuronSigns` with ``s`` rows asked for: 2 n m + 2 n m' where blocks end at groups of g > 1.

    g = max(1, m // s) neurons make a group, m' = ⌈m/g⌉; of a share of ``of`` neurons g is that of all. The exact number depends
    on how blocks cut groups: a piece of l > 1 neurons costs 2 n l + n, one alone 2 n, and every sketched neuron n for the scale.
    """
    g, starts = group_of(m, s, of), [b.start for b in walked(n, m, block, outputs)]
    pieces = len({*range(0, m, g), *starts})  # sums that blocks contribute
    return n * signed_sums(m, g, starts) + n * pieces + n * ceil(m / g)


def signed_sums(m, g, starts=()):
    """Flops per sample of signed sums over groups of g of m neurons, in blocks that start at ``starts``."""
    if g == 1:
        return m
    cuts = sorted({*range(0, m, g), *starts, m})
    return sum(2 * (j - i) if j - i > 1 else 1 for i, j in pairwise(cuts))


def sketched_gram(n, d, rows):
    """(X Xᵀ) ∘ (M' M'ᵀ) for m' = ``rows`` sketched neurons: 2 n² (m' + d) + n²."""
    return 2 * n * n * (rows + d) + n * n


def group_of(m, s, of=None):
    """g = max(1, m // s) neurons of a group of `NeuronSigns` when ``s`` sums are asked for; m of all, where ``of`` tells them."""
    return max(1, (of or m) // s)


def sketched_neurons(m, s, of=None):
    """m' = ⌈m / g⌉, the sketched neurons of `NeuronSigns`; see `group_of`."""
    return ceil(m / group_of(m, s, of))


def kronecker_sketch(n, d, m, s, oversample=KroneckerSRHT.oversample):
    """Rows of `KroneckerSRHT` from the factors (n, m) and (n, d): two transforms, n (m + d) signs and 3 n s σ sums.

    At most 8 n M log₂ M + 8 n D log₂ D + n (m + d) + 3 n s σ, M and D the next powers of two, beside the signs of the
    transforms' factors; equal where M and D are powers of 16.
    """
    return transform(m, n) + transform(d, n) + n * (m + d + 3 * s * oversample)


def transform(width, columns):
    """`linalg.fwht` of vectors padded to N: 2 k flops an entry for every factor of k points, and the factors' signs."""
    length = next_power_of_two(width)
    factors = [2**bits for bits in factor_bits(length.bit_length() - 1)]
    return 2 * columns * length * sum(factors) + _signs(factors)


def _signs(factors):
    """Negations that make Sylvester's matrices of these sizes."""
    return sum((k * k - 1) // 3 for k in factors)


def factorisation(n):
    """R of G̃ + λ I by Cholesky: n (n + 1) (2n + 1) / 6 + n; with the c outputs of a perceptron n c rows in place of n."""
    return n * (n + 1) * (2 * n + 1) // 6 + n


def triangular_solves(n):
    """M⁻¹ r = R⁻¹R⁻ᵀ r: 2 n²."""
    return 2 * n * n
