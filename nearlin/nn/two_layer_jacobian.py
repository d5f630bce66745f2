"""The Jacobian of the wide two-layer network, by walks over blocks of its neurons.

With M_ir = a_r phi'(w_r . x_i) / sqrt(m), a block M_b (n, w) exists only inside its step of the walk, and of many samples only a
tile of it at a time, which is made anew for M (Mᵀ(u ∘ X)) once the sum over the samples is complete:

    J v   = rowsum(X ∘ (M V))                                      2 n m d flops
    Jᵀ u  = Mᵀ (u ∘ X)                                             2 n m d flops
    J Jᵀu = rowsum(X ∘ (M Mᵀ(u ∘ X)))                              4 n m d flops, one walk
    J Jᵀ  = (X Xᵀ) ∘ (M Mᵀ)                                        2 n² (m + d) flops, half of it as rank-k updates

Rows of x that lie in a file are read some at a time, once in every walk; J Jᵀu is then Jᵀu and J (Jᵀu), to the same bits.

The signs cancel in J Jᵀ. With c outputs all of it holds for each output k with its own neurons M_k, at the scale √(c/m), and a
walk costs what it does with one output. J Jᵀ is block-diagonal by outputs, to the last bit. The mean of the blocks,
(X Xᵀ) ∘ (M Mᵀ), is the matrix of one output with all m neurons: one preconditioner made of it serves them all.
"""

from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add

from nearlin._array import (
    Scratch,
    fold_blocks,
    is_map,
    joined,
    map_blocks,
    namespace,
    pack_mask,
    rows_of,
    slices,
    sum_blocks,
    sums_of_blocks,
)
from nearlin.nn.activations import Activation
from nearlin.nn.gram_entries import relu_kernel
from nearlin.nn.jacobian import Factor
from nearlin.nn.output_root import ScaledIdentity, WeightedRoot
from nearlin.nn.two_layer_blocks import blocks_by_output, neuron_signs, owners, read_runs, tiles_of_samples, undivided
from nearlin.nn.two_layer_sizes import TwoLayerSizes

GROUP_BYTES = 2**27  # slopes of the neurons that one rank-k update of the Gram matrix takes


@dataclass(frozen=True)
class TwoLayerJacobian(TwoLayerSizes):
    """J (n c, m d) of the two-layer network; row (i, k) is M_ir ⊗ x_i at the neurons r of output k, and zero elsewhere.

    ``x`` (n, d) makes the slopes, ``inputs`` (n, d) the rows: the same, unless rows are weighted. W and ``blocks`` may be of
    some neurons alone, from ``first`` on, of a layer of ``width``: sums over neurons are then those over these. ``masks`` are a
    list of phi' in bits, block by block, or of None where walks make it anew. ``run`` are the tiles of ``x`` where these are some
    of more rows.
    """

    x: object
    inputs: object
    W: object
    phi: Activation
    blocks: tuple
    masks: list
    outputs: int = 1
    first: int = 0
    width: int | None = None
    run: tuple | None = None

    def pooled(self):
        """The Jacobian (n, m d) of sum_k f_k / √c, whose Gram matrix is the mean of the outputs': one output of all neurons."""
        return self if self.outputs == 1 else replace(self, outputs=1)

    @cached_property
    def _owners(self):
        return owners(self.blocks, self._neurons, self.outputs)

    def _rows(self, i):
        """The rows of W that are the neurons of block i."""
        return slice(self.blocks[i].start - self.first, self.blocks[i].stop - self.first)

    def _over_ranks(self, x, what):
        """Sums over these neurons as sums over all."""
        return x

    @property
    def _undivided(self):
        return self.run is None and undivided(self.x)

    def _parts(self):
        """(rows, J of these rows) of what is read at a time; of inputs in memory all."""
        if not is_map(self.x):
            yield slice(0, self.samples), self
            return
        for rows, x, tiles in read_runs(self.x, self._tiles):
            inputs = x if self.inputs is self.x else rows_of(self.inputs, rows)
            masks = [None if mask is None else mask[rows, :] for mask in self.masks]
            run = None if rows.stop - rows.start == self.samples else tuple(tiles)
            yield rows, replace(self, x=x, inputs=inputs, masks=masks, run=run)

    def release(self):
        """Let go of phi' in bits: walks make it anew, in 1.5 to 2 times the time. Nothing else changes by it."""
        self.masks[:] = [None] * len(self.masks)

    def restore(self):
        """Make phi' in bits again, where it was let go; 2 n m d flops."""
        if self.masks[0] is not None or self.phi.name != "relu":
            return
        xp, made = namespace(self.x), [[] for _ in self.blocks]
        for _, part in self._parts():

            def pack(i, part=part):
                W = xp.matrix_transpose(part.W[part._rows(i), :])
                made[i].append(joined([pack_mask(part.x[rows, :] @ W > 0) for rows in part._tiles]))

            map_blocks(pack, range(len(self.blocks)), self.x)
        self.masks[:] = [joined(parts) for parts in made]

    def _slope(self, i, rows, scratch, dtype=None):
        """phi' of block i for samples ``rows``, without signs and scale; it may be in the memory of ``scratch``."""
        xp = namespace(self.x)
        block, dtype = self.blocks[i], dtype or self.x.dtype
        if self.masks[i] is not None:
            return scratch.unpack_mask(self.masks[i][rows, :], block.stop - block.start, dtype)
        z = rows_of(self.x, rows) @ xp.matrix_transpose(self.W[self._rows(i), :])
        return xp.astype(self.phi.derivative(z), dtype, copy=False)

    def _by_sample(self, f, i, scratch):
        """f(phi') of block i for an f that acts on each sample: by tiles."""
        return joined([f(self._slope(i, rows, scratch)) for rows in self._tiles])

    def _adjoint_and_image(self, i, ux, scratch, image=True, before=()):
        """T = phi'ᵀ ux (w, d) of block i, added to what is ``before``, and phi' T (n, d): from the same slopes, or by tiles."""
        transposed = namespace(self.x).matrix_transpose
        if self._undivided:
            B = self._slope(i, slice(0, self.samples), scratch)
            T = transposed(B) @ ux
            return T, B @ T if image else None
        T = reduce(add, (transposed(self._slope(i, rows, scratch)) @ ux[rows, :] for rows in self._tiles), *before)
        return T, self._by_sample(lambda B: B @ T, i, scratch) if image else None

    @cached_property
    def _by_output(self):
        return blocks_by_output(self.blocks, self._neurons, self.outputs)

    def _sums(self, f):
        """The sum of f(i), like the inputs, over the blocks i of each output."""
        return [namespace(self.x).zeros_like(self.x) if Y is None else Y for Y in sums_of_blocks(f, self._by_output, self.x)]

    def matvec(self, v):
        """J v (n c,) for ``v`` = (V,), V (m, d); 2 n m d flops."""
        namespace(self.x, *v)  # of one backend
        return joined([part._image(v[0]) for _, part in self._parts()])

    def _image(self, V):
        signs, scratch = self._signs(), Scratch()

        def product(i):
            signed = V[self._rows(i), :] * signs[i][:, None]
            return self._by_sample(lambda B: B @ signed, i, scratch)

        return self._contracted(self._sums(product))

    def _contracted(self, sums):
        """rowsum(X ∘ Y), scaled, (n c,), for the sums Y (n, d) over the neurons of each output."""
        xp = namespace(self.x)
        rows = [xp.sum(self.inputs * Y, axis=1) * self._scale for Y in sums]
        return self._over_ranks(xp.reshape(xp.stack(rows, axis=1), (-1,)), "product")

    def _spread(self, u):
        """u ∘ X, scaled, (n, d), for each output."""
        u = namespace(self.x, u).reshape(self._scale * u, (-1, self.outputs))
        return [u[:, k][:, None] * self.inputs for k in range(self.outputs)]

    def rmatvec(self, u):
        """Jᵀ u, the tuple (U,) with U (m, d), for ``u`` (n c,); 2 n m d flops."""
        adjoint = self._adjoint()
        for rows, part in self._parts():
            part._add_adjoint(u[rows.start * self.outputs : rows.stop * self.outputs], adjoint, first=rows.start == 0)
        return (adjoint,)

    def _add_adjoint(self, u, adjoint, first):
        ux, signs, scratch = self._spread(u), self._signs(), Scratch()

        def product(i):
            before = () if first else (adjoint[self._rows(i), :] * signs[i][:, None],)
            T, _ = self._adjoint_and_image(i, ux[self._owners[i]], scratch, image=False, before=before)
            T *= signs[i][:, None]
            adjoint[self._rows(i), :] = T

        map_blocks(product, range(len(self.blocks)), self.x)

    def _adjoint(self):
        return namespace(self.x).empty(self.W.shape, dtype=self.x.dtype, device=self.x.device)

    def _signs(self):
        """a_r of each block."""
        return neuron_signs(self.blocks, self.x)

    def gram_matvec_with_adjoint(self, u):
        """J Jᵀ u (n c,) and Jᵀ u in one walk; 4 n m d flops."""
        if is_map(self.x):
            if self._undivided:
                return TwoLayerJacobian.gram_matvec_with_adjoint(next(self._parts())[1], u)
            adjoint = TwoLayerJacobian.rmatvec(self, u)
            return TwoLayerJacobian.matvec(self, adjoint), adjoint
        ux, adjoint, signs, scratch = self._spread(u), self._adjoint(), self._signs(), Scratch()

        def product(i):
            T, image = self._adjoint_and_image(i, ux[self._owners[i]], scratch)
            T *= signs[i][:, None]
            adjoint[self._rows(i), :] = T
            return image

        return self._contracted(self._sums(product)), (adjoint,)

    def gram(self, dtype=None):
        """J Jᵀ = (X Xᵀ) ∘ (M Mᵀ), (n c, n c): the structured Gram, 2 n² (m + d) flops, of which rank-k updates do half.

        For ReLU the entries of m M Mᵀ are counts, exact in float32 below 2^24: ``dtype="float32"`` then forms them there at no
        loss, whatever the dtype of the rest. With several outputs prefer `class_grams`, its blocks.
        """
        grams, xp, n, c = self.class_grams(dtype), namespace(self.x), self.samples, self.outputs
        if c == 1:
            return grams[0]
        whole = xp.zeros((n, c, n, c), dtype=self.x.dtype, device=self.x.device)
        for k, gram in enumerate(grams):
            whole[:, k, :, k] = gram
        return xp.reshape(whole, (n * c, n * c))

    def class_grams(self, dtype=None):
        """The diagonal blocks of J Jᵀ by outputs: c matrices (n, n); 2 n² (m + d) flops, of which rank-k updates do half."""
        xp = namespace(self.x)
        grams = [xp.astype(self._counts(k, dtype), self.x.dtype, copy=False) for k in range(self.outputs)]
        products = self.inputs @ xp.matrix_transpose(self.inputs)
        for gram in grams:
            gram *= products
            gram *= 1 / (self._neurons / self.outputs)
        return grams

    def _counts(self, output, dtype):
        """M Mᵀ (n, n) of one output, without its scale, in ``dtype`` (a name)."""
        xp, n = namespace(self.x), self.samples
        kind = self.x.dtype if dtype is None else getattr(xp, dtype)
        counts = 0.0 if self._by_output[output] else xp.zeros((n, n), dtype=kind, device=self.x.device)
        for group in self._groups(GROUP_BYTES, output):
            B = None  # the last group's memory is free
            B = self._side_by_side(group, kind or self.x.dtype)
            counts = counts + B @ xp.matrix_transpose(B)
        B = None
        return self._over_ranks(counts, "Gram matrix")

    def _side_by_side(self, group, dtype):
        """phi' (n, w) of consecutive blocks."""
        xp, first, scratch = namespace(self.x), self.blocks[group[0]].start, Scratch()
        width = self.blocks[group[-1]].stop - first
        B = xp.empty((self.samples, width), dtype=dtype, device=self.x.device)
        for i in group:
            B[:, self.blocks[i].start - first : self.blocks[i].stop - first] = self._slope(
                i, slice(0, self.samples), scratch, dtype
            )
        return B

    def mean_gram(self):
        """(1/c) sum_k J_k J_kᵀ (n, n), from all neurons at once."""
        return self.pooled().gram()

    def _groups(self, bytes_each, output=0):
        """Consecutive blocks of an output in groups wide enough for matrix products to run at full speed."""
        own, per_group = self._by_output[output], max(1, bytes_each // (8 * self.samples * self._walk[1]))
        return [own[s] for s in slices(len(own), per_group)]

    def astype(self, dtype):
        """The same Jacobian, masks included, with products in another dtype, given by name."""
        xp = namespace(self.x)
        if is_map(self.x) and self.x.dtype != getattr(xp, dtype):
            found = f"x lies in a file in {self.x.dtype}, of which products in {dtype} need a copy"
            raise ValueError(f"{found}; expected a file in {dtype}, or products in {self.x.dtype}")
        x, inputs, W = (xp.astype(a, getattr(xp, dtype), copy=False) for a in (self.x, self.inputs, self.W))
        return replace(self, x=x, inputs=inputs, W=W)

    def factors(self, rows):
        """One `Factor`, (X rows, M rows); forms a float array (rows, c, m)."""
        xp = namespace(self.x)
        signals = [self._among_outputs(part, k) for part, k in zip(self._signals(rows), self._owners, strict=True)]
        return (Factor(rows_of(self.inputs, rows), xp.concat(signals, axis=2)),)

    def _among_outputs(self, part, output):
        """The signals (rows, c, w) of neurons of one output."""
        xp = namespace(part)
        return xp.stack([part if k == output else xp.zeros_like(part) for k in range(self.outputs)], axis=1)

    def signals(self, dy):
        """dL/dz = M ∘ dy (n, m) for gradients ``dy`` (n, c) by the outputs, each for the neurons of its own."""
        parts = zip(self._signals(slice(0, self.samples)), self._owners, strict=True)
        return namespace(self.x).concat([part * dy[:, k : k + 1] for part, k in parts], axis=1)

    def _signals(self, rows):
        """M (rows, w), block by block."""
        for i, signs in enumerate(self._signs()):
            yield self._slope(i, rows, Scratch()) * signs * self._scale

    def weigh(self, root):
        """Cᵀ J for the root C of a squared loss, a multiple of the identity by samples: J Jᵀ stays block-diagonal."""
        if isinstance(root, WeightedRoot):
            return replace(self, inputs=root.scale[:, None] * self.inputs).weigh(root.root)
        if not isinstance(root, ScaledIdentity):
            raise ValueError("the two-layer network's Jacobian is not weighted; expected SquaredLoss")
        return self if root == ScaledIdentity() else replace(self, inputs=root.scale * self.inputs)

    def _hadamard(self, left, layer):
        folded = Factor(self.inputs, namespace(left).reshape(left, (self.samples, self.outputs, left.shape[1])))
        return folded.cross(folded)

    def kernel_gram(self):
        """The limit of J Jᵀ for infinite width at initialisation, (n, n), the same for every output: a closed form; ReLU.

        K_ij = x_i·x_j (π - θ_ij) / 2π with the angle θ_ij between x_i and x_j; 2 n² d + 9 n² flops, no draws.
        """
        return relu_kernel(self.inputs)

    def mean_square(self):
        """tr(J Jᵀ) / (n c): the mean squared norm of a row, (1/n) Σ ||x_i||² Σ_r phi'(w_r·x_i)² / m; one walk."""
        xp = namespace(self.x)
        squares = joined([part._squares() for _, part in self._parts()])
        return float(self._over_ranks(xp.sum(squares), "mean square")) * self._scale**2 / self.shape[0]

    def _squares(self):
        """The squared norms of rows (n,), without the scale."""
        xp = namespace(self.x)
        squares, scratch = lambda B: xp.sum(B**2, axis=1), Scratch()
        slopes = sum_blocks(lambda i: self._by_sample(squares, i, scratch), range(len(self.blocks)), self.x)
        return xp.sum(self.inputs * self.inputs, axis=1) * slopes

    def fold_left(self, layer, S):
        """M' = M S₁ᵀ (n c, s) for a sketch ``S`` of the neuron mode, made block by block; n m adds.

        Its columns are those that the neurons here have a part in.
        """
        return joined([part._folded(layer, S) for _, part in self._parts()])

    def _folded(self, layer, S):
        own = S.columns(layer, self.first, self.first + self.W.shape[0])
        xp, shape = namespace(self.x), (self.samples, self.outputs, own.stop - own.start)
        folded, scratch = xp.zeros(shape, dtype=self.x.dtype, device=self.x.device), Scratch()
        tiles = tiles_of_samples(self.x, self._walk[1], parts=4)  # a sketch is many calls, for which workers take turns

        def fold(i):
            start = self.blocks[i].start  # a_r times a random sign is a random sign: a_r dropped
            return [(rows, *S.left(layer, self._slope(i, rows, scratch), start)) for rows in tiles]

        def put(i, made):
            for rows, columns, values in made:
                folded[rows, self._owners[i], columns.start - own.start : columns.stop - own.start] += values

        fold_blocks(fold, range(len(self.blocks)), put, self.x)
        folded *= self._scale
        return xp.reshape(folded, (shape[0] * shape[1], shape[2]))
