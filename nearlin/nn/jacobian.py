"""The Jacobian as an operator of shape (n c, p); nothing of size n c x p exists outside `to_dense`.

Rows stand in order (sample, output). Row (i, k) of a dense layer l is Δ_l[i, k, :] ⊗ A_{l-1}[i, :], its output signal times its
input, so that with the left factors Δ̂_l (n c, out) and the right factors A_{l-1} (n, inp)

    J v    = sum_l rowsum(Δ̂_l ∘ (A_{l-1} V_lᵀ))
    Jᵀ u   = (Δ̂_l ∘ u)ᵀ A_{l-1}                                  for every l
    J Jᵀ   = sum_l (A_{l-1} A_{l-1}ᵀ ⊗ 1 1ᵀ) ∘ (Δ̂_l Δ̂_lᵀ).

A convolution's row sums such products over positions, a normalisation's has two entries a channel. Where rows take more than
passes do (many outputs, convolutions), products are one forward-mode and one backward pass (`NetworkJacobian`), and rows are
made a chunk of samples at a time, within a budget of bytes. Weighted by the root C of the output Hessian, all of it holds for
Cᵀ J.

Flops are counted as `nearlin.complexity` does, a product A Aᵀ in full; a BLAS does half of it as a rank-k update, and half of it
stands in a `Work`.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from nearlin._array import itemsize, namespace, slices
from nearlin.linalg import Work
from nearlin.linalg.hadamard import next_power_of_two, transform_flops
from nearlin.nn.output_root import ScaledIdentity

# --------------------------------------------------------------------------------------------------- rows of one layer, by kind


@dataclass(frozen=True)
class Factor:
    """Rows of a dense layer: inputs A (b, inp) and signals Δ (b, c, out); row (i, k) is Δ[i, k, :] ⊗ A[i, :]."""

    inputs: object
    signals: object

    def __iter__(self):
        return iter((self.inputs, self.signals))

    def __getitem__(self, rows):
        return Factor(self.inputs[rows, :], self.signals[rows, :, :])

    @property
    def left(self):
        """Δ̂ (b c, out)."""
        return namespace(self.signals).reshape(self.signals, (math.prod(self.signals.shape[:2]), self.signals.shape[2]))

    @property
    def right(self):
        """A with a row per sample and output, (b c, inp)."""
        return namespace(self.inputs).repeat(self.inputs, self.signals.shape[1], axis=0)

    def explicit(self):
        """The rows (b, c, out inp)."""
        b, c, _ = self.signals.shape
        return namespace(self.signals).reshape(self.signals[:, :, :, None] * self.inputs[:, None, None, :], (b, c, -1))

    def sketched(self, S, layer):
        """Rows times S_lᵀ (b c, s)."""
        return S.rows(layer, self.left, self.right)

    def by_class(self):
        """One `Factor` a class, each (b, 1, out)."""
        return [Factor(self.inputs, self.signals[:, k : k + 1, :]) for k in range(self.signals.shape[1])]

    def side_by_side(self):
        """All classes' rows of a sample as one: (b, 1, c out)."""
        b = self.signals.shape[0]
        return Factor(self.inputs, namespace(self.signals).reshape(self.signals, (b, 1, -1)))

    def cross(self, other):
        """Rows times the other's rows, transposed, (b c, b' c): a Hadamard product."""
        xp = namespace(self.signals)
        gram = self.left @ xp.matrix_transpose(other.left)
        inputs = self.inputs @ xp.matrix_transpose(other.inputs)
        if gram.shape == inputs.shape:
            gram *= inputs
            return gram
        (b, c, _), (d, e, _) = self.signals.shape, other.signals.shape
        return xp.reshape(xp.reshape(gram, (b, c, d, e)) * inputs[:, None, :, None], (b * c, d * e))


@dataclass(frozen=True)
class Rows:
    """Rows of a layer as they are, ``values`` (b, c, p_l)."""

    values: object

    def __getitem__(self, rows):
        return Rows(self.values[rows, :, :])

    def explicit(self):
        """The rows (b, c, p_l)."""
        return self.values

    def sketched(self, S, layer):
        """Rows times S_lᵀ (b c, s)."""
        xp = namespace(self.values)
        flat = xp.reshape(self.values, (-1, self.values.shape[2]))
        return xp.matrix_transpose(S.flat(layer) @ xp.matrix_transpose(flat))

    def by_class(self):
        """One `Rows` a class, each (b, 1, p_l)."""
        return [Rows(self.values[:, k : k + 1, :]) for k in range(self.values.shape[1])]

    def side_by_side(self):
        """All classes' rows of a sample as one: (b, 1, c p_l)."""
        return Rows(namespace(self.values).reshape(self.values, (self.values.shape[0], 1, -1)))

    def cross(self, other):
        """Rows times the other's rows, transposed, (b c, b' c)."""
        xp = namespace(self.values)
        flat = lambda block: xp.reshape(block.values, (-1, block.values.shape[2]))  # noqa: E731
        return flat(self) @ xp.matrix_transpose(flat(other))


@dataclass(frozen=True)
class Positions:
    """Rows of a convolution before they are summed: patches P (b, T, q) and signals Δ (b, c, T, out) at T positions."""

    patches: object
    signals: object

    def summed(self):
        """The `Rows` sum_t Δ[i, k, t, :] ⊗ P[i, t, :]; 2 b c T out q flops."""
        xp = namespace(self.signals)
        b, c, T, out = self.signals.shape
        left = xp.reshape(xp.permute_dims(self.signals, (0, 1, 3, 2)), (b, c * out, T))
        return Rows(xp.reshape(left @ self.patches, (b, c, -1)))

    def sketched(self, S, layer):
        """Rows times S_lᵀ (b c, s), summed over positions behind the sketch: no row is formed."""
        xp = namespace(self.signals)
        b, c, T, out = self.signals.shape
        right = xp.repeat(self.patches, c, axis=0)
        rows = S.rows(layer, xp.reshape(self.signals, (-1, out)), xp.reshape(right, (-1, right.shape[2])))
        return xp.sum(xp.reshape(rows, (b * c, T, -1)), axis=1)


def summed(block):
    """A block with the rows of a convolution summed over its positions."""
    return block.summed() if isinstance(block, Positions) else block


# ------------------------------------------------------------------------------------------------------------------- operators


class Jacobian:
    """What every Jacobian offers; a subclass gives ``shape``, ``samples``, ``factor_shapes``, the products and `factors`."""

    products: ClassVar[tuple] = ("matvec", "rmatvec", "gram_matvec", "ggn_matvec")  # counted by name; by passes: as the passes

    @property
    def outputs(self):
        """Outputs c of a sample."""
        return self.shape[0] // self.samples

    layered: ClassVar[bool] = True  # of a network of layers, not of the fused two-layer network
    block_diagonal: ClassVar[bool] = False  # J Jᵀ by outputs, as no parameter serves two of them
    coupling = ""  # why there are no rows of single samples, where there are none
    closed: ClassVar[dict] = {}  # by side of the system: why it is not solved there, where the side is split over ranks

    @property
    def item(self):
        """Bytes of a number."""
        return itemsize(self.dtype)

    def pooled(self):
        """What sketches are made of: J, or, where J Jᵀ is block-diagonal, a Jacobian whose Gram matrix is the mean block."""
        return self

    def gram_matvec(self, u):
        """J Jᵀ u for ``u`` (n c,)."""
        return self.gram_matvec_with_adjoint(u)[0]

    def gram_matvec_with_adjoint(self, u):
        """J Jᵀ u together with Jᵀ u, which it passes through."""
        v = self.rmatvec(u)
        return self.matvec(v), v

    def ggn_matvec(self, v):
        """Jᵀ J v for a params-shaped ``v``: the Gauss-Newton product Jᵀ H J v where J carries the root of H."""
        return self.rmatvec(self.matvec(v))

    def sketch_shapes(self, s, oversample=1):
        """What a distribution over factors is told of every layer: (out, inp), or the number of its parameters."""
        return self.factor_shapes

    def draw(self, distribution, key, s, like):
        """A sample with ``s`` rows of a distribution of `nearlin.sketch` for this Jacobian, next to ``like``."""
        shapes = self.sketch_shapes(s, getattr(distribution, "oversample", 1)) if distribution.factored else self.shape[1]
        return distribution.sample(key, s, shapes, like=like)

    def sketch(self, S):
        """J Sᵀ (n c, s) for a drawn sketch ``S`` of p coordinates, or of this Jacobian's `sketch_shapes`.

        Memory: s floats per row, and one chunk of rows in the sketch's own working form.
        """
        parts = [self._sketch_rows(S, rows) for rows in slices(self.samples, self._chunk(S))]
        return namespace(parts[0]).concat(parts, axis=0)

    def _sketch_rows(self, S, rows):
        blocks = self.factors(rows)
        if hasattr(S, "rows"):
            return sum(block.sketched(S, layer) for layer, block in enumerate(self._for_sketch(blocks, S)))
        xp = namespace(blocks[0].signals if hasattr(blocks[0], "signals") else blocks[0].values)
        return xp.matrix_transpose(S @ xp.matrix_transpose(_explicit(blocks)))

    def _for_sketch(self, blocks, S):
        """Convolutions are summed over positions before the sketch where it takes their rows as they are."""
        return [summed(block) if isinstance(shape, int) else block for block, shape in zip(blocks, S.shapes, strict=True)]

    def _chunk(self, S):
        """Samples at a time, so that a chunk stays near 64 MB."""
        width = sum(sum(s) if isinstance(s, tuple) else s for s in self.factor_shapes) if hasattr(S, "rows") else self.shape[1]
        return max(1, 2**23 // (width * self.outputs))

    def sketch_gram(self, S):
        """The sketched Gram matrix J SᵀS Jᵀ (n c, n c).

        For a sketch of the left factors alone it is the Hadamard product (A Aᵀ) ∘ (Δ̂ S₁ᵀS₁ Δ̂ᵀ), summed over layers; by the
        Schur product theorem it inherits the distortion of S₁.
        """
        if not hasattr(S, "left"):
            Y = self.sketch(S)
            return Y @ namespace(Y).matrix_transpose(Y)
        total = None
        for layer in range(len(self.factor_shapes)):
            term = self._hadamard(self.fold_left(layer, S), layer)
            total, term = term if total is None else total + term, None
        return total

    def gram_blocks(self, **options):
        """J Jᵀ, the one of a tuple, or, where it is block-diagonal, its blocks (n, n) by outputs; ``options`` of `gram`."""
        return tuple(self.class_grams(**options)) if self.block_diagonal else (self.gram(**options),)

    def class_grams(self):
        """The diagonal blocks of J Jᵀ by outputs: c matrices (n, n), G_k = J_k J_kᵀ."""
        blocks = [summed(block).by_class() for block in self.factors(slice(0, self.samples))]
        return [sum(layer[k].cross(layer[k]) for layer in blocks) for k in range(self.outputs)]

    def mean_gram(self):
        """Ḡ = (1/c) sum_k J_k J_kᵀ (n, n): the mean of `class_grams`."""
        blocks = [summed(block).side_by_side() for block in self.factors(slice(0, self.samples))]
        gram = sum(block.cross(block) for block in blocks)
        return gram / self.outputs

    def gram_work(self):
        """The `Work` of `gram`, where rank-k updates do half of the products."""
        raise NotImplementedError

    def sketch_work(self, s):
        """The `Work` of `sketch_gram` with ``s`` rows by this Jacobian's usual sketch."""
        raise NotImplementedError

    def product_work(self):
        """The `Work` of one product with J Jᵀ or JᵀJ."""
        raise NotImplementedError

    def rows_work(self):
        """The `Work` of making the factors of all rows; none where J has them."""
        return Work()

    def class_work(self, mean):
        """The `Work` of `mean_gram`, or of `class_grams`."""
        n, c = self.samples, self.outputs
        matrices = len(self.factor_shapes) * (1 if mean else c)
        flops = self._gram_flops(n * n * c, n * n * (1 if mean else c))
        return Work(matmul=flops, memory=6 * n * n * self.item * matrices, calls=10 * matrices)

    def _gram_flops(self, left, right):
        """Half the flops of Hadamard products with ``left`` entries of Δ̂ Δ̂ᵀ and ``right`` of A Aᵀ, or of plain rows' products."""
        return sum(left * s if isinstance(s, int) else left * s[0] + right * s[1] for s in self._row_shapes)

    def to_dense(self):
        """J as an explicit (n c, p) matrix: for tests and small problems."""
        return _explicit(self.factors(slice(0, self.samples)))


def _explicit(blocks):
    """The rows (b c, p), layers side by side."""
    rows = [summed(block).explicit() for block in blocks]
    xp = namespace(rows[0])
    return xp.concat([xp.reshape(part, (-1, part.shape[2])) for part in rows], axis=1)


@dataclass(frozen=True)
class LayeredJacobian(Jacobian):
    """The Jacobian of a layered network, from one `Factor` per trainable layer."""

    layers: tuple

    @property
    def samples(self):
        """Number of samples n."""
        return self.layers[0].inputs.shape[0]

    @property
    def rows(self):
        """The rows of each layer's trace."""
        return (self.samples,) * len(self.layers)

    @cached_property
    def factor_shapes(self):
        """(out, inp) per layer: the widths of the left and right factors."""
        return tuple((layer.signals.shape[2], layer.inputs.shape[1]) for layer in self.layers)

    @property
    def shape(self):
        """(n c, p)."""
        n, c, _ = self.layers[0].signals.shape
        return n * c, sum(out * inp for out, inp in self.factor_shapes)

    def weigh(self, root):
        """Cᵀ J for the roots C (an `OutputRoot`) of the output Hessians."""
        if root == ScaledIdentity():
            return self
        return LayeredJacobian(tuple(Factor(A, root.adjoint(signals)) for A, signals in self.layers))

    def matvec(self, v):
        """J v (n c,) for a params-shaped tuple ``v``; 2 n p + 2 n c sum(out) flops."""
        xp = namespace(*v)
        total = 0.0
        for (A, signals), V in zip(self.layers, v, strict=True):
            total = total + (signals @ (A @ xp.matrix_transpose(V))[:, :, None])[:, :, 0]
        return xp.reshape(total, (-1,))

    def rmatvec(self, u):
        """Jᵀ u, a params-shaped tuple, for ``u`` (n c,); 2 n p + 2 n c sum(out) flops."""
        xp = namespace(u)
        n = self.samples
        u = xp.reshape(u, (n, 1, -1))
        return tuple(xp.matrix_transpose((u @ signals)[:, 0, :]) @ A for A, signals in self.layers)

    def gram(self, dtype=None):
        """J Jᵀ (n c, n c) as a sum of Hadamard products, in ``dtype`` (a name); 2 (n c)² sum(out) + 2 n² sum(inp) flops."""
        if dtype is not None:
            xp = namespace(self.layers[0].inputs)
            return xp.astype(self.astype(dtype).gram(), self.layers[0].inputs.dtype, copy=False)
        total = None
        for layer in self.layers:
            total = layer.cross(layer) if total is None else total + layer.cross(layer)
        return total

    def astype(self, dtype):
        """The same Jacobian with factors in another dtype, given by name."""
        xp = namespace(self.layers[0].inputs)
        cast = lambda a: xp.astype(a, getattr(xp, dtype), copy=False)  # noqa: E731
        return LayeredJacobian(tuple(Factor(cast(A), cast(signals)) for A, signals in self.layers))

    def factors(self, rows):
        """One `Factor` per layer for a slice of samples."""
        return tuple(layer[rows] for layer in self.layers)

    def _hadamard(self, left, layer):
        n, c, _ = self.layers[layer].signals.shape
        sketched = namespace(left).reshape(left, (n, c, -1))
        folded = Factor(self.layers[layer].inputs, sketched)
        return folded.cross(folded)

    def fold_left(self, layer, S):
        """Δ̂_l S₁ᵀ (n c, s)."""
        _, values = S.left(layer, self.layers[layer].left)
        return values

    @property
    def dtype(self):
        """Of the factors."""
        return self.layers[0].inputs.dtype

    @property
    def _row_shapes(self):
        return self.factor_shapes

    def signals_work(self):
        """The `Work` of the signals at one output gradient, by a backward pass of the network."""
        return Work(matmul=2 * self.samples * sum(math.prod(shape) for shape in self.factor_shapes[1:]))

    def product_work(self):
        """The `Work` of one product with J Jᵀ or JᵀJ: 4 n p + 4 n c sum(out) flops, and two passes over the signals."""
        signals = self.shape[0] * sum(out for out, _ in self.factor_shapes)
        flops = 4 * self.samples * self.shape[1] + 4 * signals
        return Work(matmul=flops, memory=3 * self.item * signals, calls=12 * len(self.layers))

    def gram_work(self):
        """The `Work` of `gram`."""
        N, n = self.shape[0], self.samples
        flops = self._gram_flops(N * N, n * n)
        return Work(matmul=flops, memory=6 * N * N * self.item * len(self.layers), calls=10 * len(self.layers))

    def sketch_work(self, s):
        """The `Work` of a `KroneckerSRHT` with four times oversampling, its Hadamard transforms bound by memory."""
        N = self.shape[0]
        widths = [k for pair in self.factor_shapes for k in pair]
        moved = sum(k * math.log2(k) for k in map(next_power_of_two, widths)) + 4 * 5 * s * len(self.layers)
        flops = N * N * s + N * sum(map(transform_flops, widths))
        return Work(matmul=flops, memory=self.item * N * moved, calls=200 * len(self.layers))
