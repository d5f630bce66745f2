"""The wide two-layer network f(x) = m^{-1/2} sum_r a_r phi(w_r . x) with frozen signs a_r = (-1)^r, as one fused layer.

Only W (m, d) is trained. With c outputs, output k is the sum over the neurons [k m/c, (k+1) m/c) alone, at the scale √(c/m): no
parameter serves two outputs. Function, gradient and Jacobian products share one walk over blocks of neurons, which is that of
`TwoLayerJacobian`:

    f_k   = √(c/m) phi(X W_kᵀ) a_k                                 2 n m d flops for all outputs together

No float array of size n x m exists: for ReLU the walk keeps the mask phi' in bits (bytes where the backend has no bits),
n m / 8 bytes in all; for other activations phi'(X W_bᵀ) is made anew in every walk.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import (
    abs_in_place,
    by_rows,
    check,
    fold_in,
    integer,
    joined,
    namespace,
    normal,
    pack_mask,
    require,
    settle,
    slices,
    sums_of_blocks,
    unguarded_methods,
)
from nearlin.nn.activations import activation
from nearlin.nn.layers import LayerSpec, Trace
from nearlin.nn.two_layer_blocks import (
    blocks_by_output,
    blocks_of_neurons,
    neuron_signs,
    read_runs,
    shares,
    tiles_of_samples,
    width_of_block,
)
from nearlin.nn.two_layer_jacobian import TwoLayerJacobian

DRAW = 2**16  # neurons per draw, so that a weight depends on the key and its neuron's index alone


class Tape(NamedTuple):
    """What a forward pass leaves: the Jacobian it determines, and the outputs (n, c)."""

    jacobian: TwoLayerJacobian
    outputs: object


@unguarded_methods
@dataclass(frozen=True)
class TwoLayer:
    """A two-layer network with a Gaussian first layer and frozen output signs a_r = (-1)^r, scaled by √(c/m).

    Parameters
    ----------
    inputs : int
        Input dimension d.
    width : int
        Number of neurons m.
    activation : str
        ``relu``, ``tanh``, ``sigmoid``, ``softplus`` or ``identity``.
    outputs : int
        c. Output k owns the neurons from ⌊k m/c⌋ to ⌊(k+1) m/c⌋; where c does not divide m, some own one neuron more.

    Notes
    -----
    The setting of arXiv:2006.11648, arXiv:1905.11675 and arXiv:1905.10961. Parameters are the tuple ``(W,)`` with W (m, d).

    Examples
    --------
    >>> network = nl.nn.TwoLayer(inputs=4, width=96, outputs=3)
    >>> x = np.ones((5, 4))
    >>> network.forward(network.init(key=0, like=x), x)[0].shape
    (5, 3)
    """

    inputs: int
    width: int
    activation: str = "relu"
    outputs: int = 1

    def __post_init__(self):
        settle(self, inputs=integer(1), width=integer(1), outputs=integer(1))
        activation(self.activation)
        found = f"width is {self.width} with {self.outputs} outputs, each of which has its own neurons"
        require(self.outputs <= self.width, f"{found}; expected a width of at least {self.outputs}")

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
        return (self._drawn(key, like, 0, self.width),)

    def _drawn(self, key, like, first, last):
        """The weights of neurons ``first`` to ``last``."""
        blocks, parts = slices(self.width, DRAW), []
        for i in range(first // DRAW, -(-last // DRAW)):
            start, stop = max(first - blocks[i].start, 0), min(last, blocks[i].stop) - blocks[i].start
            parts.append(normal(fold_in(key, i), (stop, self.inputs), like)[start:, :])
        return namespace(like).concat(parts, axis=0)

    def init_at_zero(self, key, like):
        """As `init`, with every other neuron of an output like the one before it, whose sign is the opposite: f = 0.

        A fit that moves every neuron little keeps what the network was at first between the training rows. Where an output owns
        an odd number of neurons, its last one has no twin.
        """
        return (self._drawn_in_twins(key, like, 0, self.width),)

    def _drawn_in_twins(self, key, like, first, last):
        """The weights of neurons ``first`` to ``last`` of `init_at_zero`."""
        before = max(first - 1, 0)
        W, xp = self._drawn(key, like, before, last), namespace(like)
        owned = [(max(first, own.start), min(last, own.stop), own.start) for own in shares(self.width, self.outputs)]
        r = [(xp.arange(a, b, device=W.device), start) for a, b, start in owned if a < b]
        return xp.take(W, xp.concat([own - (own - start) % 2 - before for own, start in r]), axis=0)

    def forward(self, params, x, masks=True):
        """Outputs (n, c) and the tape, for inputs (n, d); 2 n m d flops and a few n m elementwise ones.

        Without ``masks`` none are kept: every walk makes phi' anew.
        """
        (W,) = params
        f, blocks, kept = self._walk(W, x, slice(0, self.width), masks)
        outputs = f / math.sqrt(self.width / self.outputs)
        return outputs, Tape(TwoLayerJacobian(x, x, W, activation(self.activation), blocks, kept, self.outputs), outputs)

    def _walk(self, W, x, neurons, masks):
        """The sums over ``neurons``, whose weights are W, for each output, (n, c); the blocks, and a mask of each or None."""
        phi, xp = activation(self.activation), namespace(x)
        blocks = tuple(blocks_of_neurons(self.width, self.outputs, width_of_block(x), neurons))
        by_output, packed = blocks_by_output(blocks, self.width, self.outputs), masks and phi.name == "relu"
        signs, kept = neuron_signs(blocks, x), [[] for _ in blocks]

        def walk(rows, tiles):
            def part(i):
                own = slice(blocks[i].start - neurons.start, blocks[i].stop - neurons.start)
                f, mask = _forward_block(rows, W[own, :], signs[i], phi, tiles, packed)
                kept[i].append(mask)
                return f

            sums, zero = sums_of_blocks(part, by_output, x), xp.zeros_like(rows[:, 0])
            return xp.stack([zero if f is None else f for f in sums], axis=1)

        tiles = tiles_of_samples(x, blocks[0].stop - blocks[0].start)
        f = joined([walk(rows, own) for _, rows, own in read_runs(x, tiles)])
        for i, parts in enumerate(kept):
            kept[i] = joined(parts) if packed else None
        return f, blocks, kept

    @staticmethod
    def _check_rows(x):
        xp = namespace(x)
        zero = xp.nonzero(by_rows(lambda rows: xp.all(rows == 0, axis=1), x))[0]
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
        """J v, (n, c)."""
        image = tape.jacobian.matvec(tangents)
        return namespace(image).reshape(image, (-1, self.outputs))

    def grads(self, params, tape, dy):
        """Jᵀ dy, shaped like the parameters."""
        return tape.jacobian.rmatvec(namespace(dy).reshape(dy, (-1,)))

    def traces(self, params, tape, dy):
        """The layer's inputs and signals; forms the float array (n, m) that nothing else here forms."""
        return (Trace(tape.jacobian.x, tape.jacobian.signals(dy), False),)


def _forward_block(x, W, a, phi, tiles, packed):
    """f (n,) of some neurons, and where it is to be ``packed`` the mask phi' (n, w) of ReLU, by tiles of samples."""
    xp, relu = namespace(x), phi.name == "relu"
    aW = a @ W if relu else None

    def tile(rows):
        z = x[rows, :] @ xp.matrix_transpose(W)
        if not relu:
            return phi.function(z) @ a, None
        mask = pack_mask(z > 0) if packed else None
        return 0.5 * (abs_in_place(z) @ a + x[rows, :] @ aW), mask  # relu(z) = (|z| + z)/2: one pass over z instead of two

    f, masks = zip(*map(tile, tiles), strict=True)
    return joined(f), joined(masks) if packed else None
