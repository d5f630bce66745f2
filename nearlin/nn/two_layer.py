"""The wide two-layer network f(x) = m^{-1/2} sum_r a_r phi(w_r . x) with frozen signs a_r = (-1)^r, as one fused layer.

Only W (m, d) is trained. Function, gradient and Jacobian products share one walk over blocks of neurons; with
M_ir = a_r phi'(w_r . x_i) / sqrt(m), a block M_b (n, w) exists only inside its step of the walk:

    f     = phi(X Wᵀ) a / sqrt(m)
    J v   = rowsum(X ∘ (M V))                                      2 n m d flops
    Jᵀ u  = Mᵀ (u ∘ X)                                             2 n m d flops
    J Jᵀu = rowsum(X ∘ (M Mᵀ(u ∘ X)))                              4 n m d flops, one walk
    J Jᵀ  = (X Xᵀ) ∘ (M Mᵀ)                                        2 n² (m + d) flops, half of it as rank-k updates

No float array of size n x m exists: for ReLU the walk keeps the mask phi' in bits (bytes where the backend has no bits),
n m / 8 bytes in all; for other activations phi'(X W_bᵀ) is made anew in every walk. The signs cancel in J Jᵀ.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from nearlin._array import (
    block_length,
    check,
    fold_in,
    integer,
    itemsize,
    map_blocks,
    namespace,
    normal,
    pack_mask,
    settle,
    slices,
    unpack_mask,
)
from nearlin.linalg import Work
from nearlin.nn.activations import Activation, activation
from nearlin.nn.jacobian import Factor, Jacobian
from nearlin.nn.layers import LayerSpec, Trace
from nearlin.nn.output_root import ScaledIdentity

DRAW = 2**16  # neurons per draw, so that a weight depends on the key and its neuron's index alone
GROUP_BYTES = 2**27  # slopes of the neurons that one rank-k update of the Gram matrix takes


class Tape(NamedTuple):
    """What a forward pass leaves: the Jacobian it determines, and the outputs (n, 1)."""

    jacobian: "TwoLayerJacobian"
    outputs: object


@dataclass(frozen=True)
class TwoLayer:
    """A two-layer network with scalar output, Gaussian first layer and frozen output signs a_r = (-1)^r, scaled by m^{-1/2}.

    Parameters
    ----------
    inputs : int
        Input dimension d.
    width : int
        Number of neurons m.
    activation : str
        ``relu``, ``tanh``, ``sigmoid``, ``softplus`` or ``identity``.

    Notes
    -----
    The setting of arXiv:2006.11648, arXiv:1905.11675 and arXiv:1905.10961. Parameters are the tuple ``(W,)`` with W (m, d).
    """

    inputs: int
    width: int
    activation: str = "relu"
    outputs: int = field(default=1, init=False)

    def __post_init__(self):
        settle(self, inputs=integer(1), width=integer(1))
        activation(self.activation)

    @property
    def layers(self):
        """One `LayerSpec`, for W."""
        return (LayerSpec("dense", self.width, self.inputs, bias=False),)

    def check_inputs(self, x, params):
        """`BackendError`, `TypeError` or `ValueError` where x is no batch (n, d) next to ``params``."""
        check(ndim={"x": 2}, x=x, **{f"params[{i}]": W for i, W in enumerate(params)})
        if x.shape[1] != self.inputs:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (n, {self.inputs}), the network's inputs")

    def statistics(self, tape):
        """None: there are no normalisation layers."""
        return ()

    def init(self, key, like):
        """Parameters (W,) with w_r ~ N(0, I), next to ``like``: its backend, device and dtype."""
        blocks = enumerate(slices(self.width, DRAW))
        chunks = [normal(fold_in(key, i), (block.stop - block.start, self.inputs), like) for i, block in blocks]
        return (namespace(like).concat(chunks, axis=0),)

    def forward(self, params, x):
        """Outputs (n, 1) and the tape, for inputs (n, d); 2 n m d flops and a few n m elementwise ones."""
        (W,) = params
        xp = namespace(x)
        phi = activation(self.activation)
        blocks = slices(self.width, width_of_block(x))
        f, masks = 0.0, []
        for part, mask in map_blocks(partial(_forward_block, x, W, phi), blocks, x):
            f = f + part
            masks.append(mask)
        outputs = xp.reshape(f / math.sqrt(self.width), (-1, 1))
        return outputs, Tape(TwoLayerJacobian(x, W, phi, tuple(blocks), tuple(masks)), outputs)

    @staticmethod
    def _check_rows(x):
        xp = namespace(x)
        zero = xp.nonzero(xp.all(x == 0, axis=1))[0]
        if zero.shape[0]:
            raise ValueError(
                f"x row {int(zero[0])} is zero ({zero.shape[0]} such row(s)): a network without bias gives 0 there whatever its "
                "weights; remove the row or append a constant input"
            )

    def jacobian(self, params, tape, x=None, factors=None):
        """The `TwoLayerJacobian`, which the forward walk has prepared; `ValueError` for a row of zeros, which nothing fits."""
        self._check_rows(tape.jacobian.x)
        return tape.jacobian

    def jvp(self, params, tape, tangents):
        """J v, (n, 1)."""
        return tape.jacobian.matvec(tangents)[:, None]

    def grads(self, params, tape, dy):
        """Jᵀ dy, shaped like the parameters."""
        return tape.jacobian.rmatvec(dy[:, 0])

    def traces(self, params, tape, dy):
        """The layer's inputs and signals; forms the float array (n, m) that nothing else here forms."""
        (factor,) = tape.jacobian.factors(slice(0, dy.shape[0]))
        return (Trace(factor.inputs, factor.left * dy, False),)


def width_of_block(x):
    """Neurons per block, a multiple of 8 (bits)."""
    n = x.shape[0]
    return max(8, block_length(n * itemsize(x.dtype), x) // 8 * 8)


def _signs(block, like):
    """a_r = (-1)^r for the neurons of a block."""
    xp = namespace(like)
    r = xp.arange(block.start, block.stop, dtype=xp.int64, device=like.device)
    return xp.astype(1 - 2 * (r % 2), like.dtype)


def _forward_block(x, W, phi, block):
    xp = namespace(x)
    z, a = x @ xp.matrix_transpose(W[block, :]), _signs(block, x)
    if phi.name == "relu":  # relu(z) = (|z| + z)/2, and z a = x (Wᵀa): one pass over z instead of two
        return 0.5 * (xp.abs(z) @ a + x @ (a @ W[block, :])), pack_mask(z > 0)
    return phi.function(z) @ a, None


@dataclass(frozen=True)
class TwoLayerJacobian(Jacobian):
    """J (n, m d) of the two-layer network; row i is M_i ⊗ x_i."""

    x: object
    W: object
    phi: Activation
    blocks: tuple
    masks: tuple

    layered = False

    @property
    def samples(self):
        """Number of samples n."""
        return self.x.shape[0]

    @property
    def shape(self):
        """(n, m d)."""
        return self.x.shape[0], self.W.shape[0] * self.W.shape[1]

    @property
    def factor_shapes(self):
        """((m, d),)."""
        return (tuple(self.W.shape),)

    @property
    def _scale(self):
        return 1 / math.sqrt(self.W.shape[0])

    def _slope(self, i, dtype=None):
        """phi' (n, w) of block i, without signs and scale."""
        xp = namespace(self.x)
        block, dtype = self.blocks[i], dtype or self.x.dtype
        if self.masks[i] is not None:
            return unpack_mask(self.masks[i], block.stop - block.start, dtype)
        return xp.astype(self.phi.derivative(self.x @ xp.matrix_transpose(self.W[block, :])), dtype, copy=False)

    def _walk(self, f):
        return map_blocks(f, range(len(self.blocks)), self.x)

    def matvec(self, v):
        """J v (n,) for ``v`` = (V,), V (m, d); 2 n m d flops."""
        xp = namespace(self.x, *v)

        def product(i):
            V = v[0][self.blocks[i], :]
            return self._slope(i) @ (V * _signs(self.blocks[i], V)[:, None])

        return xp.sum(self.x * _total(self._walk(product)), axis=1) * self._scale

    def rmatvec(self, u):
        """Jᵀ u, the tuple (U,) with U (m, d), for ``u`` (n,); 2 n m d flops."""
        xp = namespace(self.x, u)
        ux = (self._scale * u)[:, None] * self.x

        def product(i):
            return xp.matrix_transpose(self._slope(i)) @ ux * _signs(self.blocks[i], ux)[:, None]

        return (xp.concat(list(self._walk(product)), axis=0),)

    def gram_matvec_with_adjoint(self, u):
        """J Jᵀ u (n,) and Jᵀ u in one walk; 4 n m d flops."""
        xp = namespace(self.x, u)
        ux = (self._scale * u)[:, None] * self.x

        def product(i):
            B = self._slope(i)
            T = xp.matrix_transpose(B) @ ux
            return B @ T, T * _signs(self.blocks[i], ux)[:, None]

        total, adjoint = 0.0, []
        for part, T in self._walk(product):
            total = total + part
            adjoint.append(T)
        return xp.sum(self.x * total, axis=1) * self._scale, (xp.concat(adjoint, axis=0),)

    def gram(self, dtype=None):
        """J Jᵀ = (X Xᵀ) ∘ (M Mᵀ), (n, n): the structured Gram, 2 n² (m + d) flops, of which rank-k updates do half.

        For ReLU the entries of m M Mᵀ are counts, exact in float32 below 2^24: ``dtype="float32"`` then forms them there at no
        loss, whatever the dtype of the rest.
        """
        xp = namespace(self.x)
        kind = None if dtype is None else getattr(xp, dtype)
        counts = 0.0
        for group in self._groups(bytes_each=GROUP_BYTES):
            B = xp.concat([self._slope(i, kind) for i in group], axis=1)
            counts = counts + B @ xp.matrix_transpose(B)
        gram = xp.astype(counts, self.x.dtype, copy=False)
        gram *= self.x @ xp.matrix_transpose(self.x)
        gram *= 1 / self.W.shape[0]
        return gram

    def _groups(self, bytes_each):
        """Consecutive blocks in groups wide enough for matrix products to run at full speed."""
        width = self.blocks[0].stop
        per_group = max(1, bytes_each // (8 * self.samples * width))
        return [range(s.start, s.stop) for s in slices(len(self.blocks), per_group)]

    def astype(self, dtype):
        """The same Jacobian, masks included, with products in another dtype, given by name."""
        xp = namespace(self.x)
        x, W = (xp.astype(a, getattr(xp, dtype), copy=False) for a in (self.x, self.W))
        return TwoLayerJacobian(x, W, self.phi, self.blocks, self.masks)

    def factors(self, rows):
        """One `Factor`, (X rows, M rows); forms a float array (rows, m)."""
        xp = namespace(self.x)
        left = xp.concat([self._part(i, rows) * _signs(block, self.x) for i, block in enumerate(self.blocks)], axis=1)
        return (Factor(self.x[rows, :], (left * self._scale)[:, None, :]),)

    def _part(self, i, rows):
        part = None if self.masks[i] is None else (self.masks[i][rows, :],)
        return TwoLayerJacobian(self.x[rows, :], self.W, self.phi, (self.blocks[i],), part or (None,))._slope(0)

    def weigh(self, root):
        """Cᵀ J for a root C of the output Hessians: J itself where that is the identity, which alone keeps the masks in bits."""
        if root != ScaledIdentity():
            raise ValueError("the two-layer network's Jacobian is not weighted; expected SquaredLoss")
        return self

    def _hadamard(self, left, layer):
        gram = left @ namespace(left).matrix_transpose(left)
        gram *= self.x @ namespace(self.x).matrix_transpose(self.x)
        return gram

    def kernel_gram(self):
        """The limit of J Jᵀ for infinite width at initialisation, (n, n): a closed form in X Xᵀ alone; ReLU.

        K_ij = x_i·x_j (π - θ_ij) / 2π with the angle θ_ij between x_i and x_j; 2 n² d + 9 n² flops, no draws.
        """
        return relu_kernel(self.x)

    def mean_square(self):
        """tr(J Jᵀ) / n: the mean squared norm of a row, (1/n) Σ ||x_i||² Σ_r phi'(w_r·x_i)² / m; one walk."""
        xp = namespace(self.x)
        slopes = _total(self._walk(lambda i: xp.sum(self._slope(i) ** 2, axis=1)))
        return float(xp.sum(xp.sum(self.x * self.x, axis=1) * slopes)) * self._scale**2 / self.samples

    @property
    def dtype(self):
        """Of the inputs."""
        return self.x.dtype

    def _slope_work(self):
        """The `Work` of phi' of all neurons: 2 n m d flops where no mask is kept."""
        return Work(thin=0 if self.masks[0] is not None else 2 * self.samples * self.shape[1])

    def product_work(self):
        """The `Work` of one product with J Jᵀ: 4 n m d flops."""
        return self._slope_work() + Work(thin=4 * self.samples * self.shape[1], calls=10 * len(self.blocks))

    def gram_work(self):
        """The `Work` of `gram`, and of unpacking the masks."""
        n, (m, d) = self.samples, self.W.shape
        update = Work(matmul=n * n * (m + d), memory=2 * self.item * n * (m + 3 * n), calls=8 * len(self.blocks))
        return self._slope_work() + update

    def sketch_work(self, s):
        """The `Work` of `NeuronSigns`."""
        n, (m, d) = self.samples, self.W.shape
        sums = math.ceil(m / max(1, m // s))  # neurons in equal groups: s or more sums
        update = n * n * (sums + d) + 2 * n * m
        return self._slope_work() + Work(matmul=update, memory=self.item * n * (m + 8 * n), calls=12 * len(self.blocks))

    def kernel_work(self):
        """The `Work` of `kernel_gram`."""
        n, d = self.samples, self.W.shape[1]
        return Work(matmul=n * n * d, memory=40 * self.item * n * n, calls=20)

    def fold_left(self, layer, S):
        """M' = M S₁ᵀ (n, s) for a sketch ``S`` of the neuron mode, made block by block; n m adds."""
        xp = namespace(self.x)
        folded = xp.zeros((self.samples, S.left_rows(layer)), dtype=self.x.dtype, device=self.x.device)

        def fold(i):
            return S.left(layer, self._slope(i), self.blocks[i].start)  # a_r times a random sign is a random sign: a_r dropped

        for columns, values in self._walk(fold):
            folded[:, columns] += values
        folded *= self._scale
        return folded


def relu_kernel(x):
    """E_w[x_i·x_j 1[w·x_i > 0] 1[w·x_j > 0]] = x_i·x_j (π - θ_ij) / 2π for w ~ N(0, I) and the rows of ``x`` (n, d): (n, n)."""
    xp = namespace(x)
    K = x @ xp.matrix_transpose(x)
    size = xp.sqrt(xp.linalg.diagonal(K))
    cosine = xp.clip(K / (size[:, None] * size[None, :]), -1.0, 1.0)
    K *= 0.5 - xp.acos(cosine) / (2 * math.pi)
    return K


def _total(parts):
    """Sum in the order given."""
    total = 0.0
    for part in parts:
        total = total + part
    return total
