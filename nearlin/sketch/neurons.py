"""Sketches of the neuron mode alone.

Formula     G = (X Xᵀ) ∘ (M Mᵀ) is approximated by (X Xᵀ) ∘ (M' M'ᵀ), M' = M S₁ᵀ (n, m'), with S₁ (m', m), E[S₁ᵀ S₁] = I.
            NeuronSigns: row h of S₁ holds independent signs on the h-th group of g consecutive neurons, zeros elsewhere;
            g = max(1, m // s), m' = ceil(m / g) >= min(s, m). NeuronSamples: m' = min(s, m) rows sqrt(m / m') e_r of neurons r
            drawn without replacement.
Reference   van den Brand, Peng, Song and Weinstein, Training (overparametrized) neural networks in near-linear time
            (arXiv:2006.11648) sketch the rows of J; that a distortion of S₁ on range(Mᵀ) is one of G is the Schur product
            theorem: (1-ε) M Mᵀ ⪯ M' M'ᵀ ⪯ (1+ε) M Mᵀ implies the same of the Hadamard products with X Xᵀ, on any data.
Cost        NeuronSigns: 2 b m flops for b rows, m entries held per layer; NeuronSamples: b m' copies, m' entries held.
Deviations  1. Not the sketch of the paper, which acts on both factors (`KroneckerSRHT`): range(Mᵀ) has dimension n at most,
               whatever the inputs, and the exact product with X Xᵀ costs n² (m' + d).
            2. S₁ has one entry per column. Two samples whose masks differ in k neurons are confused where these meet in one group
               and their signs cancel, which is likely only for k of 2 to 5: near-duplicates at distance θ have k = m θ / π, and
               at k = 4, n = 64, m' = 2n one draw in 25 gave κ of 150 instead of 2.6; none did at k = 8 and more.
            3. Groups are consecutive, not random: neurons of one layer are exchangeable at initialisation, and a block of neurons
               is sketched without the others.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import ClassVar

from nearlin import _array
from nearlin.sketch._base import LeftSample, check_factors, check_layer


@dataclass(frozen=True)
class NeuronSigns:
    """Signed sums over groups of consecutive neurons; exact (m' = m) for s > m / 2.

    Examples
    --------
    >>> M = np.ones((5, 1024))  # a left factor: 5 rows of the Jacobian, 1024 neurons
    >>> S = nl.sketch.NeuronSigns().sample(0, s=64, shape=((1024, 16),), like=M)
    >>> columns, values = S.left(0, M)
    >>> columns, values.shape, S.group(0)
    (slice(0, 64, None), (5, 64), 16)
    """

    factored: ClassVar[bool] = True
    by_neurons: ClassVar[bool] = True
    oversampling: ClassVar[float] = 1.5

    def sample(self, key, s, shape, *, like, neurons=None):
        """Draw the operators of ``key``, at least min(``s``, m) sketched neurons in each layer of ``shape`` = ((m, d), ...).

        The signs of a layer depend on the key and the layer alone, not on ``s`` or on how neurons are split into blocks: with
        ``neurons``, a slice, only theirs are drawn.
        """
        s, shapes = check_factors(s, shape, like)
        drawn = [(neurons.start, neurons.stop) if neurons else (0, m) for m, _ in shapes]
        signs = tuple(_array.signs(_array.fold_in(key, index), b - a, like, a) for index, (a, b) in enumerate(drawn))
        return NeuronSignsSample(shapes, tuple(max(1, m // s) for m, _ in shapes), signs, neurons=neurons)


@dataclass(frozen=True, eq=False)
class NeuronSignsSample(LeftSample):
    """One draw: group sizes ``groups`` and ``signs`` (m,) of each layer."""

    groups: tuple[int, ...]
    signs: tuple[object, ...]

    def left_rows(self, layer):
        """m' = ceil(m / g) of ``layer``."""
        m, _ = check_layer(self.shapes, layer)
        return -(-m // self.groups[layer])

    def group(self, layer):
        """g, the number of neurons in a group of ``layer`` (the last group may be smaller)."""
        check_layer(self.shapes, layer)
        return self.groups[layer]

    def columns(self, layer, start, stop):
        """The groups that neurons ``start`` to ``stop`` of ``layer`` have a part in."""
        g = self.group(layer)
        return slice(start // g, -(-stop // g))

    def _held(self, layer):
        return self.signs[layer]

    def _left(self, layer, block, start):
        g, w, drawn = self.groups[layer], block.shape[1], start - (self.neurons.start if self.neurons else 0)
        signs = self.signs[layer][drawn : drawn + w]
        first = min(-start % g, w)  # neurons that complete a group begun before the block
        last = first + (w - first) // g * g  # and from here on a group that goes on after it
        parts = [(0, first, first), (first, last, g), (last, w, w - last)]
        sums = [_signed_sums(block[:, i:j], signs[i:j], group) for i, j, group in parts if j > i]
        return sums[0] if len(sums) == 1 else _array.namespace(block).concat(sums, axis=1)


def _signed_sums(block, signs, g):
    """Signed sums over groups of ``g`` columns of ``block`` (b, k g): (b, k).

    A batch of matrix-vector products, one per group, reads ``block`` once in place and makes no temporary of its size.
    """
    xp = _array.namespace(block)
    if g == 1:
        return block * signs
    b, k = block.shape[0], block.shape[1] // g
    by_group = xp.permute_dims(xp.reshape(block, (b, k, g)), (1, 0, 2))
    sums = xp.matmul(by_group, xp.reshape(signs, (k, g, 1)))
    return xp.matrix_transpose(sums[:, :, 0])


@dataclass(frozen=True)
class NeuronSamples:
    """Uniform sampling of neurons; known to fail where samples nearly coincide.

    Near-duplicate samples differ in the masks of few neurons, most of which a sample misses, and κ of the preconditioned
    system exceeds 1e4. Use `NeuronSigns`; this one is for comparison.

    Examples
    --------
    >>> M = np.ones((5, 1024))  # a left factor: 5 rows of the Jacobian, 1024 neurons
    >>> S = nl.sketch.NeuronSamples().sample(0, s=64, shape=((1024, 16),), like=M)
    >>> columns, values = S.left(0, M)
    >>> values.shape, float(values[0, 0])  # √(1024 / 64)
    ((5, 64), 4.0)
    """

    factored: ClassVar[bool] = True
    by_neurons: ClassVar[bool] = True
    oversampling: ClassVar[int] = 1

    def sample(self, key, s, shape, *, like, neurons=None):
        """Draw min(``s``, m) neurons without replacement in each layer of ``shape`` = ((m, d), ...).

        With ``neurons``, a slice, blocks of others are refused.
        """
        s, shapes = check_factors(s, shape, like)
        xp = _array.namespace(like)
        drawn = [_array.permutation(_array.fold_in(key, l), m, like)[: min(s, m)] for l, (m, _) in enumerate(shapes)]
        index = tuple(xp.sort(neurons) for neurons in drawn)
        positions = tuple(tuple(_array.to_numpy(neurons).tolist()) for neurons in index)
        prototype = xp.zeros((1,), dtype=like.dtype, device=_array.device(like))
        return NeuronSamplesSample(shapes, index, positions, prototype, neurons=neurons)


@dataclass(frozen=True, eq=False)
class NeuronSamplesSample(LeftSample):
    """One draw: the ascending ``index`` (m',) of the neurons of each layer; ``positions`` are the same on the host."""

    index: tuple[object, ...]
    positions: tuple[tuple[int, ...], ...]
    prototype: object

    def left_rows(self, layer):
        """m' = min(s, m) of ``layer``."""
        check_layer(self.shapes, layer)
        return len(self.positions[layer])

    def group(self, layer):
        """1: neurons are not grouped, so that a block may begin anywhere."""
        check_layer(self.shapes, layer)
        return 1

    def columns(self, layer, start, stop):
        """The drawn ones among neurons ``start`` to ``stop`` of ``layer``."""
        check_layer(self.shapes, layer)
        return slice(*(bisect_left(self.positions[layer], end) for end in (start, stop)))

    def _held(self, layer):
        return self.prototype

    def _left(self, layer, block, start):
        drawn, positions = self.index[layer][self.columns(layer, start, start + block.shape[1])], self.positions[layer]
        scale = (self.shapes[layer][0] / len(positions)) ** 0.5
        return _array.namespace(block).take(block, drawn - start, axis=1) * scale
