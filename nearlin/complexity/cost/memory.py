"""Bytes of a step on the wide two-layer network: the arrays that there are at its peak, by name.

A step holds some arrays all through it, and goes by phases, each with arrays of its own; the peak is that of the largest phase.
Arrays of a handful of numbers a sample are not counted. On NumPy an operation on a temporary writes into its memory, masks are in
bits, walks have a block for each of their workers, and large updates go by slices; elsewhere there is none of it.
"""

from math import ceil, log2, prod
from typing import NamedTuple

import numpy as np

from nearlin._array import Unmade, block_length, even_step
from nearlin.complexity.cost.kernels import sketched_neurons
from nearlin.complexity.cost.layerwise import LAYERS
from nearlin.complexity.cost.pivoted import first_rank, rounds_of
from nearlin.linalg.pivoted_cholesky import LEAST, ROWS
from nearlin.nn.layers import LayerSpec
from nearlin.nn.two_layer_blocks import block_width, samples_of_tile, undivided, width_of_block
from nearlin.nn.two_layer_jacobian import GROUP_BYTES
from nearlin.sketch import NeuronSigns
from nearlin.steps import SLICE

FUNCTION = {"relu": 1, "tanh": 2, "sigmoid": 4, "softplus": 4, "identity": 1}  # arrays like z while phi(z) is made, z among them
DERIVATIVE = {"relu": 1, "tanh": 4, "sigmoid": 4, "softplus": 4, "identity": 2}  # and phi'(z); of ReLU that of a mask
NYSTROM = 16  # least rank
ENTRY_ARRAYS = 5  # while entries of the kernel are made
VECTORS = 10  # of a number for each row, in a solve


def at_the_peak(held, *phases):
    """The arrays ``held`` and those of the phase that needs most beside them, bytes by name; nothing of no bytes."""
    largest = max(phases, key=lambda arrays: sum((held | arrays).values()))
    return {name: int(size) for name, size in (held | largest).items() if size >= 1}


class Memory(NamedTuple):
    """Sizes that the memory of a step of the two-layer network is made of, in bytes.

    Attributes
    ----------
    data, inputs, weights, masks, square : int
        x and y, x, W (m, d), the masks of all neurons, (n, n).
    block, tile, sketched : int
        Slopes of a block in a sum over samples, of a tile of samples, and of a tile that is sketched, of all workers at once.
    rows, images : int
        Products with the slopes of a block, (w, d) and (n, d), and the sums of tiles that these are of.
    one_block : int
        Slopes of a block of all samples, of one worker.
    item, workers : int
        Bytes of a number; blocks walked at the same time.
    numpy : bool
    activation : str
    outputs : int
    """

    data: int
    inputs: int
    weights: int
    masks: int
    square: int
    block: int
    tile: int
    sketched: int
    rows: int
    images: int
    one_block: int
    item: int
    workers: int
    numpy: bool
    activation: str
    outputs: int

    @property
    def relu(self):
        """Whether masks are kept."""
        return self.activation == "relu"

    @property
    def vectors(self):
        """Of a solve."""
        return VECTORS * self.data_rows * self.item

    @property
    def data_rows(self):
        """n c."""
        return (self.data - self.inputs) // self.item

    @property
    def walk(self):
        """A forward walk: z of a tile and what phi(z) takes, for ReLU its mask in bytes, and the masks of a block in parts."""
        z = FUNCTION[self.activation] * self.tile
        if not self.relu:
            return z
        bits = 8 if self.numpy else 1
        parts = self.block // self.item // bits
        return max(z + self.tile // self.item + parts, 2 * parts if self.tile < self.block else 0)

    @property
    def slopes(self):
        """A walk over slopes: phi' of a block, and then NumPy's index of its packed mask, or rows of weights and images."""
        return max(self.made(self.block), self.block + self.rows + self.images)

    def made(self, slopes):
        """Bytes at work while phi' of ``slopes`` bytes is made, these among them."""
        index = slopes // self.item if self.relu and self.numpy else 0
        return DERIVATIVE[self.activation] * slopes + index

    @property
    def spread(self):
        """u ∘ X for every output."""
        return self.outputs * self.inputs


def two_layer_sizes(n, d, m, dtype, packed, workers, activation, outputs=1, on_gpu=False, of=None):
    """The `Memory` of a two-layer network; arguments as of `near_linear_memory`."""
    item, x = np.dtype(dtype).itemsize, Unmade((n, 0), np.dtype(dtype), on_gpu)
    width = block_width(min(m, (of or m) // outputs), width_of_block(x))  # no list of blocks: a width may be out of all reach
    masks = n * (ceil(m / 8) if packed else m) if activation == "relu" else 0
    tile = samples_of_tile(x, width)
    block, rows, images = (n, width * d, n * d) if undivided(x) else (tile, 2 * width * d, 3 * n * d)
    workers = min(workers, ceil(m / width))
    sketched = samples_of_tile(x, width, parts=4)
    parts = item * block * width, item * tile * width, item * sketched * width, item * rows, item * images
    whole = item * n * (d + outputs), item * n * d, item * m * d, masks, item * n * n
    return Memory(*whole, *(workers * part for part in parts), item * n * width, item, workers, packed, activation, outputs)


def solve_phases(size, iterates=True, smoothed=False):
    """Iterations of CG, the guard, and what it recalls, of a step on the sample side, by the arrays beside those held.

    A solve that does not iterate takes a product with Jᵀ; one that is ``smoothed`` has the sums of two iterates.
    """
    trial, walk = {"step": size.weights, "trial": size.weights}, {"u ∘ X": size.spread, "walk": size.slopes}
    product = {"Jᵀv": size.weights} | walk
    sums = {"Jᵀv": size.weights, "Jᵀg": 2 * size.weights, "α Jᵀv": (not size.numpy) * size.weights}
    best = {"smoothed Jᵀg": smoothed * size.weights}
    cg = ({"Jᵀg": size.weights} | best | product, best | sums)
    return (
        *(cg if iterates else (product,)),
        trial | {"trial masks": size.masks, "walk": size.walk},
        trial | {"squares": size.weights},
        trial | {"trial masks": size.masks, "copies": size.weights + size.data},
    )


def held_by_a_solve(size, recalled, other_batch):
    """What a step on the sample side holds all through it, but for its preconditioner."""
    return {
        "data": size.data,
        "parameters": size.weights,
        "recall": size.weights + size.data if recalled or other_batch else 0,
        "masks": (1 + other_batch) * size.masks,
        "vectors": size.vectors,
    }


def near_linear_memory(
    n, d, m, dtype="float64", packed=True, fresh=True, recalled=True, sketch_rows=None, workers=1, activation="relu", outputs=1,
    preconditioner="sketch", rank=None, made=0, on_gpu=False, other_batch=False, of=None,
):  # fmt: skip
    """Bytes of one `NearLinearGaussNewton` step with neuron-mode sketch or pivoted columns on a two-layer network, by array.

    Parameters
    ----------
    n, d, m : int
        Samples, inputs, neurons.
    dtype : str
    packed : bool
        NumPy's masks in bits, and its ways (see above), or those of other backends.
    fresh, recalled : bool
        As in `near_linear_step`. A fresh R beside a recalled point replaces an older one.
    sketch_rows : int, optional
        s; by default 1.5 n.
    workers : int
        Blocks walked at the same time.
    activation : str
    outputs : int
    preconditioner : str
        ``"sketch"``, ``"kernel"`` or ``"pivoted"``.
    rank : int, optional
        Of pivoted columns; by default k₀ = √(2 m d).
    made : int
        Of them, those that an earlier step has made.
    on_gpu : bool
        Whether blocks are those of a GPU.
    other_batch : bool
        Whether what is recalled is of another batch, and serves for nothing.
    of : int, optional
        Neurons of all ranks, where m are the share of one.

    Returns
    -------
    dict[str, int]
        Their sum is the peak.
    """
    size = two_layer_sizes(n, d, m, dtype, packed, workers, activation, outputs, on_gpu, of)
    solve = solve_phases(size, smoothed=preconditioner == "pivoted")
    held = held_by_a_solve(size, recalled, other_batch)
    if preconditioner == "pivoted":
        k = first_rank(m * d, n) if rank is None else rank
        kept = kernel_columns(size, n, d, k)
        if not fresh:
            return at_the_peak(held | kept, *solve)
        older = kernel_columns(size, n, d, made or k * other_batch, "last ")
        phases = columns_phases(size, n, k, made, LEAST, on_gpu)
        return at_the_peak(held | older, *(kept | phase for phase in (*phases, *solve)))
    R = {"R": size.square, "its inputs": size.inputs}
    if not fresh:
        return at_the_peak(held | R, *solve)
    if preconditioner == "kernel":
        made, build = "kernel", kernel_phases(size, n, on_gpu)
    else:
        rows = sketched_neurons(m, ceil(NeuronSigns.oversampling * n) if sketch_rows is None else sketch_rows, of)
        made, build = "sketched Gram", sketch_phases(size, n, m, rows)
    older = {"last R": size.square + size.inputs if recalled or other_batch else 0}
    after = [{made: size.square} | R | phase for phase in solve]
    return at_the_peak(held | older, *build, *after)


def sketch_phases(size, n, m, rows):
    """M' = M S₁ᵀ by tiles, its Gram matrix, and R."""
    folded = {"M'": size.item * n * rows, "signs": size.item * m}
    return (
        folded | {"tile": size.made(size.sketched), "sums of a block": size.one_block * rows / m},
        folded | {"M' M'ᵀ": size.square, "X Xᵀ": size.square},
        {"sketched Gram": size.square, "R": (1 if size.numpy else 2) * size.square},
    )


def kernel_phases(size, n, on_gpu):
    """K by blocks of rows, five arrays like each at a time, and R."""
    like = Unmade((n, n), np.dtype(float), on_gpu)
    rows = min(n, block_length(size.item * n, like, parts=16))
    tiles = ENTRY_ARRAYS * min(size.workers, ceil(n / rows)) * size.item * n * rows
    return {"kernel": size.square, "its rows": tiles}, {"kernel": size.square, "R": (1 if size.numpy else 2) * size.square}


def kernel_columns(size, n, d, k, name=""):
    """What is kept of k pivoted columns, nothing of none: F (n, k), FᵀF in float64, R, and numbers for each row."""
    rows = size.item * n * (d + 2) + 8 * n
    arrays = {"F": size.item * n * k, "FᵀF": 8 * k * k, "R": size.item * k * k, "rows of F": rows}
    return {name + array: size for array, size in arrays.items()} if k else {}


def columns_phases(size, n, k, made, least, on_gpu, entry=ENTRY_ARRAYS):
    """A round of the most columns: ``entry`` arrays of a block of rows while entries are made, and its part of FᵀF."""
    most = max((taken for _, taken in rounds_of(k, made, least)), default=0)
    row, like = size.item * (k + 3 * most), Unmade((n, k), np.dtype(float), on_gpu)
    block = min(n, max(block_length(row, like, parts=8), min(ROWS, block_length(row, like))))
    workers = min(size.workers, ceil(n / block))
    return (
        {"entries": workers * entry * size.item * block * most, "their squares": workers * size.item * k * most},
        {"FᵀF + μ I": 8 * k * k},
    )


def nystrom_rank(rows):
    """The largest rank that `linalg.nystrom` takes; where a smaller one will do is found on the way."""
    return min(rows, max(NYSTROM, rows // 2))


def nystrom_phases(item, rows, numpy):
    """The last root B, and its singular vectors, NumPy's in float64, beside Q, A Q, and the last draws and their basis."""
    k = nystrom_rank(rows)
    before = NYSTROM * 2 ** max(0, ceil(log2(k / NYSTROM)) - 1)
    held = {"Q and A Q": 2 * item * rows * k, "B": item * rows * k, "draws": 2 * item * rows * max(0, k - before)}
    vectors = 8 * (2 * rows * k + k * k) if numpy and item < 8 else item * (rows * k + k * k)
    root = {"last B": item * rows * before, "A Q + ν Q": item * rows * k, "Qᵀ A Q": 2 * item * k * k}
    return [held | root, held | {"U and V": vectors}]


def gram_memory(
    n, d, m, dtype="float64", packed=True, workers=1, activation="relu", outputs=1, on_gpu=False, of=None,
    optimizer="gram-gauss-newton",
):  # fmt: skip
    """Bytes of one `GramGaussNewton` or `NaturalGradient` step on a two-layer network, by array; see `near_linear_memory`."""
    size = two_layer_sizes(n, d, m, dtype, packed, workers, activation, outputs, on_gpu, of)
    held = {"data": size.data, "parameters": size.weights, "masks": size.masks}
    weights, grams = size.weights, {"J Jᵀ": outputs * size.square}
    guard = {"step": weights, "trial": weights, "trial masks": size.masks, "walk": size.walk}
    return at_the_peak(
        held,
        *gram_phases(size, n, m, outputs, of),
        grams | {"R": (outputs if size.numpy else outputs + 1) * size.square},
        grams | {"step": weights, "u ∘ X": size.spread, "walk": size.slopes},
        grams | {"step": weights, "trial": weights, "squares": weights},
        *((grams | guard,) if optimizer == "gram-gauss-newton" else ()),
    )


def gram_phases(size, n, m, outputs, of=None):
    """The Gram matrices of all outputs: each from slopes side by side, some of the neurons at a time; then times X Xᵀ.

    Of a share of ``of`` neurons what is sent, beside what comes back, takes no more than that.
    """
    one = size.one_block // size.item // n  # neurons
    own = min(m, -(-(of or m) // outputs))
    together = min(own, max(1, GROUP_BYTES // (8 * n * one)) * one)
    slopes, sums = size.item * n * together, (outputs - 1 + (2 if together < own else 1)) * size.square
    return (
        {
            "J Jᵀ": (outputs - 1) * size.square + (together < own) * size.square,
            "slopes": slopes,
            "block": size.made(size.one_block),
        },
        {"J Jᵀ": sums, "slopes": slopes},
        {"J Jᵀ": 2 * outputs * size.square},
        {"J Jᵀ": outputs * size.square, "X Xᵀ": size.square},
    )


class Update(NamedTuple):
    """Arrays like the parameters that a method of first order keeps, and has at work on NumPy and elsewhere, gradient included.

    ``decayed``: parameters that were decayed stand beside them.
    """

    kept: int
    on_numpy: int
    elsewhere: int
    decayed: int = 0


FIRST_ORDER = {
    "sgd": Update(1, 4, 4),
    "adam": Update(2, 6, 6),
    "adamw": Update(2, 6, 6, 1),
    "adagrad": Update(1, 4, 5),
    "rmsprop": Update(1, 6, 6),
}


def update_phase(optimizer, shapes, item, numpy, workers):
    """The arrays of an update of parameters of ``shapes``, matrix after matrix, or on NumPy in `SLICE` of large ones."""
    update, sizes = FIRST_ORDER[optimizer], [prod(shape) for shape in shapes]
    at_work, results, p = (update.on_numpy if numpy else update.elsewhere) - 1, update.kept + 1, sum(sizes)
    if numpy and max(sizes) > SLICE:
        new, temporaries = results * p, workers * at_work * max(even_step(size, SLICE) for size in sizes)
    else:
        peaks = [results * sum(sizes[:i]) + at_work * size for i, size in enumerate(sizes)]
        new, temporaries = results * p, max(peaks) - results * p
    named = {"gradient": p, "decayed": update.decayed * p, "new": new, "temporaries": temporaries}
    return {name: item * size for name, size in named.items()}


def first_order_memory(
    n, d, m, dtype="float64", optimizer="sgd", packed=True, workers=1, activation="relu", outputs=1, on_gpu=False, of=None
):
    """Bytes of one step of a method of first order, a key of `FIRST_ORDER`, on a two-layer network; see `near_linear_memory`."""
    size = two_layer_sizes(n, d, m, dtype, packed, workers, activation, outputs, on_gpu, of)
    kept = FIRST_ORDER[optimizer].kept
    held = {"data": size.data, "parameters": size.weights, "state": kept * size.weights, "masks": size.masks}
    return at_the_peak(
        held,
        {"walk": size.walk},
        {"gradient": size.weights, "u ∘ X": size.spread, "walk": size.slopes},
        update_phase(optimizer, [(m, d)], size.item, packed, workers),
    )


def _first_order_work(size, temporaries):
    return max(size.walk, size.slopes + size.weights, temporaries * size.weights)


LAYERWISE = {  # copies at work of the factors and inverses that are kept, of the weights, and of signals (n, m)
    "mini-block-fisher": (1, 5.5, 0),
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
    size = two_layer_sizes(n, d, m, dtype, packed, workers, activation, outputs, on_gpu)
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
