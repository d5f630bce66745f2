"""How a walk over the wide two-layer network is cut: blocks of neurons, none with those of two outputs, and tiles of samples.

A block of all samples is what a core's cache holds (2 MB), or `NARROW` neurons, for which products run at full speed. Where 8 MB
do not hold these, blocks are `WIDE`, and sums over samples go by tiles. What acts on each sample goes by tiles wherever it is.
"""

import math
from bisect import bisect_left, bisect_right
from itertools import pairwise

from nearlin._array import block_length, even_step, is_map, is_numpy, itemsize, namespace, row_chunks, rows_of, slices

NARROW, WIDE = 256, 512
ROWS = 64  # samples of a tile are a multiple of it: kernels of products take so many at a time, and each comes out as in a whole


def undivided(x):
    """Whether a block holds all samples in sums over them."""
    return block_length(x.shape[0] * itemsize(x.dtype), x) >= NARROW


def width_of_block(x):
    """Neurons per block, a multiple of 8 (bits)."""
    if not undivided(x):
        return WIDE
    return max(NARROW, block_length(x.shape[0] * itemsize(x.dtype), x, parts=4) // 8 * 8)


def samples_of_tile(x, width, parts=8):
    """How many samples make 1 MB with ``width`` neurons, or 8 MB in so many ``parts``, in tiles that are even."""
    n, length = x.shape[0], block_length(width * itemsize(x.dtype), x, parts)
    return min(max(n, 1), even_step(n, max(ROWS, length // ROWS * ROWS), multiple=ROWS))


def tiles_of_samples(x, width, parts=8):
    """Slices of `samples_of_tile`."""
    return slices(x.shape[0], samples_of_tile(x, width, parts))


def read_runs(x, tiles):
    """Runs of ``tiles`` with their rows of ``x``, read one after the other: (rows, x[rows], tiles of it), or one of all."""
    if not is_map(x):
        yield slice(0, x.shape[0]), x, tiles
        return
    whole = [slice(0, x.shape[0])]
    for rows in whole if undivided(x) else row_chunks(x, multiple=tiles[0].stop):
        own = [slice(t.start - rows.start, t.stop - rows.start) for t in tiles if rows.start <= t.start < rows.stop]
        yield rows, rows_of(x, rows), own


def mask_bytes(x, width, phi):
    """What phi' of all neurons takes in bits (bytes elsewhere than on NumPy); 0 but for ReLU."""
    return x.shape[0] * (math.ceil(width / 8) if is_numpy(x) else width) if phi.name == "relu" else 0


def shares(width, outputs):
    """The neurons of each output, as slices."""
    return [slice(start, stop) for start, stop in pairwise(k * width // outputs for k in range(outputs + 1))]


def block_width(own, length):
    """Neurons of a block of an output's ``own`` ones: at most ``length``, a multiple of 8 where there are several blocks."""
    return min(own, even_step(own, length, multiple=8))


def blocks_of_neurons(width, outputs, length, neurons=None):
    """Slices of at most ``length`` neurons, a multiple of 8, in order and even, none with neurons of two outputs.

    Of all neurons, or of those of the slice ``neurons``.
    """
    first, last = (neurons.start, neurons.stop) if neurons else (0, width)
    parts = [slice(max(first, own.start), min(last, own.stop)) for own in shares(width, outputs)]
    return [
        slice(own.start + s.start, own.start + s.stop)
        for own in parts
        if own.start < own.stop
        for s in slices(own.stop - own.start, block_width(own.stop - own.start, length))
    ]


def owners(blocks, width, outputs):
    """For each block the output that its neurons belong to."""
    return tuple(((block.start + 1) * outputs - 1) // width for block in blocks)


def blocks_by_output(blocks, width, outputs):
    """For each output the indices of its blocks, a range; an empty one where it has none."""
    owned = owners(blocks, width, outputs)
    return [range(bisect_left(owned, k), bisect_right(owned, k)) for k in range(outputs)]


def neuron_signs(blocks, like):
    """a_r = (-1)^r for the neurons of each block: views of one array, of one sign more than the longest block has neurons."""
    xp = namespace(like)
    r = xp.arange(max(block.stop - block.start for block in blocks) + 1, dtype=xp.int64, device=like.device)
    signs = xp.astype(1 - 2 * (r % 2), like.dtype)
    return [signs[block.start % 2 : block.start % 2 + block.stop - block.start] for block in blocks]
