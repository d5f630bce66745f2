"""What a network costs as an oracle: the wide two-layer network, and perceptrons under the squared loss."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import ceil
from typing import NamedTuple

from nearlin.complexity.cost import kernels
from nearlin.sketch import KroneckerSRHT


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
    signals : int
        One backward pass to the output gradients of the layers, without the gradients of their weights.
    slopes : int
        Of ``signals``, those of the activations' derivatives, which further passes from the same forward pass find made.
    blocks : int
        Diagonal blocks of J Jᵀ: one triangular factor of a sketch serves all, an exact one has each.
    all_rows : int, optional
        n c of all ranks, where these samples are the share of one.
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
    signals: int
    slopes: int = 0
    blocks: int = 1
    all_rows: int | None = None

    @property
    def loss_rows(self):
        """n c of all that a loss is the mean of."""
        return self.all_rows or self.rows

    @property
    def block_rows(self):
        """Rows of one of the blocks."""
        return self.rows // self.blocks


def two_layer(n, d, m, block=None, activation="relu", outputs=1, dtype="float64", of=None):
    """The `NetworkCost` of `nn.TwoLayer` with ``d`` inputs and ``m`` neurons, a rank's share of ``of``, on ``n`` samples."""
    block = block or kernels.neurons_per_block(n, dtype)
    sizes = {"block": block, "activation": activation, "outputs": outputs}
    adjoint = kernels.rmatvec(n, d, m, **sizes, dtype=dtype)
    return NetworkCost(
        n, n * outputs, n * d, m * d, 1, kernels.forward(n, d, m, **sizes), 2 * n * d, adjoint,
        kernels.matvec(n, d, m, **sizes), adjoint, kernels.gram_matvec(n, d, m, **sizes, dtype=dtype),
        kernels.gram(n, d, m, **sizes),
        partial(_two_layer_neurons, n, d, m, block, activation, outputs, of),
        partial(_two_layer_kronecker, n, d, m, block, activation, outputs),
        3 * n * m + kernels.sign_flops(n, m, block, outputs) + kernels.slope_flops(n, d, m, activation), blocks=outputs,
    )  # fmt: skip


def _two_layer_neurons(n, d, m, block, activation, outputs, of, s):
    return (
        kernels.neuron_sketch(n, m, s, block, outputs, of)
        + kernels.sketched_gram(n, d, kernels.sketched_neurons(m, s, of))
        + kernels.slope_flops(n, d, m, activation)
    )


def _two_layer_kronecker(n, d, m, block, activation, outputs, s, oversample=KroneckerSRHT.oversample):
    chunks = ceil(n / max(1, 2**23 // (m + d)))  # samples are sketched some at a time, and signs made for each
    factors = 2 * n * m + chunks * kernels.sign_flops(n, m, block, outputs) + kernels.slope_flops(n, d, m, activation)
    again = (chunks - 1) * (kernels.transform(m, 0) + kernels.transform(d, 0))  # the transforms' factors, for each
    return factors + again + oversample * s + kernels.kronecker_sketch(n, d, m, s, oversample) + n * s + 2 * n * n * s


def mlp(n, sizes, activation="tanh", linear=(), of=None):
    """The `NetworkCost` of `nn.MLP` with ``sizes`` = (d, widths, c) on ``n`` samples; positions ``linear`` have no activation.

    ``of``: samples of all ranks, where n are the share of one.
    """
    layers = [(out, inp + 1) for inp, out in pairwise(sizes)]
    nc, p = n * sizes[-1], sum(out * inp for out, inp in layers)
    hidden = n * sum(width for i, width in enumerate(sizes[:-1]) if i not in (0, *linear))
    products = n * sum(inp * out for inp, out in pairwise(sizes))
    unused = 2 * n * sizes[0] * sizes[1]  # the first layer's input gradient is not formed
    slopes = kernels.DERIVATIVE[activation] * hidden  # made by the first pass that asks, and kept for others
    signals = products * 2 - unused + hidden + slopes  # one backward pass
    left = 2 * nc * sum(out for out, _ in layers)  # signals against a vector
    matvec = 2 * n * p + left + nc * len(layers)
    rmatvec = 2 * n * p + left
    gram = sum(_hadamard(n, nc, inp, out) for out, inp in layers) + nc * nc * (len(layers) - 1)
    return NetworkCost(
        n, nc, n * sizes[0], p, len(layers), 2 * products + n * sum(sizes[1:]) + kernels.FUNCTION[activation] * hidden,
        sizes[-1] * signals - (sizes[-1] - 1) * slopes, signals + 2 * n * p, matvec, rmatvec, matvec + rmatvec, gram,
        partial(_mlp_neurons, n, nc, layers), partial(_mlp_kronecker, nc, layers), signals, slopes,
        all_rows=of and of * sizes[-1],
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
        total += nc * kernels.signed_sums(out, max(1, out // s)) + _hadamard(n, nc, inp, kernels.sketched_neurons(out, s))
    return total


def _mlp_kronecker(nc, layers, s, oversample=KroneckerSRHT.oversample):
    rows = sum(kernels.kronecker_sketch(nc, inp, out, s, oversample) + oversample * s + nc * s for out, inp in layers)
    return rows + 2 * nc * nc * s
