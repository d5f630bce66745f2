"""Bytes of a step on the wide two-layer network, by part."""

from math import ceil
from typing import NamedTuple

import numpy as np

from nearlin._array import Unmade, block_length
from nearlin.complexity.cost.kernels import sketched_neurons
from nearlin.complexity.cost.layerwise import LAYERS
from nearlin.complexity.cost.pivoted import first_rank, rounds_of
from nearlin.nn.layers import LayerSpec
from nearlin.nn.two_layer_blocks import block_width, tiles_of_samples, undivided, width_of_block
from nearlin.nn.two_layer_jacobian import GROUP_BYTES
from nearlin.sketch import NeuronSigns
from nearlin.steps import SLICE


class Memory(NamedTuple):
    """Sizes that the memory of a step of the two-layer network is made of, in bytes."""

    data: int
    weights: int
    masks: int
    square: int
    block: int
    tile: int
    rows: int
    images: int
    item: int
    in_place: bool
    kept: bool
    bits: int
    on_gpu: bool

    @property
    def walk(self):
        """A forward walk: z, its mask, and phi(z), which for ReLU NumPy and CuPy write over z, of tiles, and masks of blocks."""
        several = self.tile < self.block or not self.on_gpu
        masks = 2 * (self.block // self.item // self.bits if self.kept and several else 0)
        return (2 - self.in_place) * self.tile + self.tile // self.item + masks

    @property
    def slopes(self):
        """A walk over slopes: phi' of what is in flight with its mask in bytes, or z, rows of W, and images.

        What making phi' takes beside z, two more of its size, counts where blocks are those of a GPU.
        """
        more = self.block // self.item if self.kept else (3 if self.on_gpu else 1) * self.block
        return self.block + more + self.rows + self.images


def _memory(n, d, m, dtype, packed, workers, activation, outputs=1, on_gpu=False):
    item, relu, x = np.dtype(dtype).itemsize, activation == "relu", Unmade((n, 0), np.dtype(dtype), on_gpu)
    width = block_width(m // outputs, width_of_block(x))  # no list of blocks: a width may be out of all reach
    masks = n * (ceil(m / 8) if packed else m) if relu else 0
    tile = tiles_of_samples(x, width)[0].stop
    block, images = (n, 0) if undivided(x) else (tile, 3 * n * d)
    sizes = item * n * (d + outputs), item * m * d, masks, item * n * n
    parts = workers * item * block * width, workers * item * tile * width, workers * item * width * d
    return Memory(
        *sizes, *parts, workers * item * images, item, (packed or on_gpu) and relu, relu, 8 if packed and relu else 1, on_gpu
    )


def near_linear_memory(
    n, d, m, dtype="float64", packed=True, fresh=True, recalled=True, sketch_rows=None, workers=1, activation="relu", outputs=1,
    preconditioner="sketch", rank=None, made=0, on_gpu=False,
):  # fmt: skip
    """Bytes of one `NearLinearGaussNewton` step with neuron-mode sketch or pivoted columns on a two-layer network, by part.

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
    outputs : int
    preconditioner : str
        ``"sketch"`` or ``"pivoted"``.
    rank : int, optional
        Of pivoted columns; by default k₀ = √(2 m d).
    made : int
        Of them, those that an earlier step has made.
    on_gpu : bool
        Whether blocks are those of a GPU.

    Returns
    -------
    dict[str, int]
        What is held through the step (data, parameters, recall, masks, preconditioner), and ``work``: the largest of what
        building R, the iterations and the guard need beside it. The sum is near the peak: measured ones are 0 to 25 % smaller.
    """
    size = _memory(n, d, m, dtype, packed, workers, activation, outputs, on_gpu)
    inputs = size.item * n * d
    if preconditioner == "pivoted":
        kept, build = _pivoted(n, d, first_rank(m * d, n) if rank is None else rank, made, size.item, workers, on_gpu)
    else:
        rows = sketched_neurons(m, ceil(NeuronSigns.oversampling * n) if sketch_rows is None else sketch_rows)
        tiles = (0 if on_gpu else 2 * size.tile) + size.tile // size.item
        factors = max(2 * size.square, size.block + tiles, size.slopes if on_gpu else 0) - size.square
        build = size.item * n * rows + size.item * m + factors
        kept = (1 + (fresh and recalled)) * (size.square + inputs)
    iterations = max(5 * size.weights, 4 * size.weights + size.slopes) + (outputs - 1) * inputs
    guard = 2 * size.weights + size.masks + max(size.walk, size.weights + size.data)
    return {
        "data": size.data,
        "parameters": size.weights,
        "recall": size.weights + size.data if recalled else 0,
        "masks": size.masks,
        "preconditioner": kept,
        "work": max(build if fresh else 0, iterations, guard),
    }


def _pivoted(n, d, k, made, item, workers, on_gpu):
    """What is kept of k pivoted columns, F, FᵀF, R, inputs and vectors, beside those that were made; what making them takes.

    R stands twice where λ has moved. Groups of near rows are not among it.
    """
    kept = item * (n * k + 2 * k * k + n * d + 2 * n) + 8 * k * k + 8 * n
    older = item * (n * made + made * made) + 8 * made * made + 8 * n
    most = max((taken for _, taken in rounds_of(k, made)), default=0)
    block = min(n, block_length(item * (k + 3 * most), Unmade((n, k), np.dtype(float), on_gpu)))
    return kept + (older if made else 0), workers * (5 * item * block * most + 8 * k * most)


def gram_memory(n, d, m, dtype="float64", packed=True, workers=1, activation="relu", outputs=1, on_gpu=False):
    """Bytes of one `GramGaussNewton` or `NaturalGradient` step on a two-layer network, by part; see `near_linear_memory`."""
    size = _memory(n, d, m, dtype, packed, workers, activation, outputs, on_gpu)
    floats = size.item * n * ceil(m / outputs)
    group = min(floats, max(GROUP_BYTES * size.item // 8, size.block // workers))
    form = 2 * group + (size.square + on_gpu * group if group < floats else 0)
    form = max(form, size.slopes if on_gpu else 0) - size.square
    guard = 3 * size.weights + size.masks + size.walk
    return {
        "data": size.data,
        "parameters": size.weights,
        "masks": size.masks,
        "n x n": 2 * outputs * size.square,
        "work": max(0, max(form, guard) - (outputs - 1) * size.square),  # some of the factors are not there yet, or no longer
    }


FIRST_ORDER = {  # arrays kept, at work on NumPy, and at work elsewhere
    "sgd": (1, 3, 4),
    "adam": (2, 9, 9),
    "adamw": (2, 9, 9),
    "adagrad": (1, 5, 5),
    "rmsprop": (1, 6, 6),
}


def first_order_memory(
    n, d, m, dtype="float64", optimizer="sgd", packed=True, workers=1, activation="relu", outputs=1, on_gpu=False
):
    """Bytes of one step of a method of first order, a key of `FIRST_ORDER`, on a two-layer network; see `near_linear_memory`."""
    size = _memory(n, d, m, dtype, packed, workers, activation, outputs, on_gpu)
    moments, on_numpy, elsewhere = FIRST_ORDER[optimizer]
    held, entries = 2 + moments, size.weights // size.item
    work = (on_numpy if packed else elsewhere) * size.weights
    if packed and entries > SLICE:  # results and gradient; temporaries in slices
        work = held * size.weights + workers * (on_numpy - held + 3) * size.item * SLICE
    return {
        "data": size.data,
        "parameters": size.weights,
        "state": moments * size.weights,
        "masks": size.masks,
        "work": max(work, _first_order_work(size, 0, outputs * size.item * n * d)),
    }


def _first_order_work(size, temporaries, spread=0):
    return max(size.walk, size.slopes + size.weights + spread, temporaries * size.weights)


LAYERWISE = {  # copies at work of the factors and inverses that are kept, of the weights, and of signals (n, m)
    "mini-block-fisher": (1, 5.5, 0),
    "kfac": (1.6, 2, 1),
    "shampoo": (2.1, 3, 0),
    "tnt": (2.1, 4, 0),
    "kbfgs": (2.1, 5, 1.3),
    "kbfgs-l": (1, 5.5, 2.3),
}


def layerwise_memory(
    name, n, d, m, dtype="float64", packed=True, workers=1, activation="relu", statistics_due=True, inverse_due=True, outputs=1,
    on_gpu=False,
):  # fmt: skip
    """Bytes of one step of a layer-wise method, a key of `LAYERS`, on a two-layer network; see `near_linear_memory`."""
    size = _memory(n, d, m, dtype, packed, workers, activation, outputs, on_gpu)
    kept = size.item * LAYERS[name](LayerSpec("dense", m, d, bias=False), n).state - size.weights
    factors, weights, signals = LAYERWISE[name]
    busy = statistics_due or inverse_due or name.startswith("kbfgs")
    work = busy * int(factors * kept + weights * size.weights + signals * size.item * n * m)
    return {
        "data": size.data,
        "parameters": size.weights,
        "momentum": size.weights,
        "factors": kept,
        "masks": size.masks,
        "work": max(work, int(_first_order_work(size, 5.5))),
    }
