"""The wide two-layer network by neurons: every rank holds the weights of its own, and x and y are whole on all of them.

Formula     f = Σ_ranks √(c/m) Σ_r a_r phi(w_r · x),   J Jᵀ = Σ_ranks J_rank J_rankᵀ,   Jᵀu by rows
            a sketch by groups of neurons: M'M'ᵀ = Σ_ranks M'_rank M'_rankᵀ; of a group that straddles two ranks the right one
            hands its part of the column to the left
Reference   the walks are those of `nearlin.nn.two_layer_jacobian`
Cost        of a step's walks and weights a rank has its share; what is n x n, or n long, is the same on all ranks. Bytes a rank,
            numbers of 8: 8 n c a forward pass and a product with J or J Jᵀ; 8 n² c a Gram matrix; 8 n² + 8 n a sketched one;
            8 (n + n k + Σ b (b + 1)/2) for k columns of a sketch by rounds of b proposals, none of the closed-form kernel;
            8 a norm or an inner product of parameters
Deviations  none: iterates are those of one rank up to rounding, and draws to the bit
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

from nearlin._array import BackendError, describe, is_array, namespace, require
from nearlin._ranks import Alone
from nearlin.linalg import pack_symmetric, unpack_symmetric
from nearlin.nn.activations import activation
from nearlin.nn.gram_entries import FactorEntries
from nearlin.nn.split import Split
from nearlin.nn.two_layer import Tape, TwoLayer
from nearlin.nn.two_layer_blocks import blocks_of_neurons, width_of_block
from nearlin.nn.two_layer_jacobian import TwoLayerJacobian

UNIT = 8  # ranks begin at multiples of it: the bits of masks fill bytes


def by_neurons(objective, ranks):
    """An `Objective` of a `TwoLayer` network whose neurons are split over ``ranks``.

    Parameters
    ----------
    objective : Objective
    ranks : Alone, World, ...
        This rank among all, each of which calls with its own: of `nearlin.together` or `nearlin.World`.

    Returns
    -------
    Objective
        With a `SplitTwoLayer`; every method that reads sums and entries of parameters takes it as it is, and so do all sides and
        routes of Gauss-Newton on the samples' side.

    Raises
    ------
    ValueError
        Another network, more ranks than blocks of 8 neurons, or an objective that is split by samples.

    Examples
    --------
    >>> x, y = nl.data.sphere(n=32, d=4, seed=0)
    >>> objective, opt = nl.nn.Objective(nl.nn.TwoLayer(inputs=4, width=512), nl.nn.SquaredLoss()), nl.optim.GaussNewton()
    >>> def loss(ranks):
    ...     mine = nl.nn.by_neurons(objective, ranks)
    ...     params = mine.network.init(key=0, like=x)
    ...     params, state, info = opt.step(params, opt.init(params, mine), mine, (x, y))
    ...     return round(info.new_loss, 9)
    >>> len(set(nl.together(3, loss) + [loss(nl.Alone())]))
    1
    """
    network = objective.network
    require(not hasattr(objective, "ranks"), "the objective is split by samples already; expected one that is not split")
    if not isinstance(network, TwoLayer):
        raise ValueError(f"the network is a {type(network).__name__}; expected a TwoLayer: others are split by samples")
    mine = {one.name: getattr(network, one.name) for one in fields(TwoLayer)}
    return replace(objective, network=SplitTwoLayer(**mine, ranks=ranks))


@dataclass(frozen=True)
class SplitTwoLayer(TwoLayer):
    """A `TwoLayer` of whose neurons every rank holds some; made by `by_neurons`. Parameters are the tuple of one `Split`."""

    ranks: object = field(default_factory=Alone)

    def __post_init__(self):
        super().__post_init__()
        blocks = -(-self.width // UNIT)
        if self.ranks.size > blocks:
            found = f"there are {self.ranks.size} ranks, and the width {self.width} has {blocks} blocks of {UNIT} neurons"
            raise ValueError(f"{found}; expected at most as many ranks as blocks")

    @property
    def neurons(self):
        """Those of this rank, a slice."""
        return self.ranks.share(self.width, UNIT)

    def split(self, params):
        """Whole parameters (W,), the same on all ranks, as split ones."""
        return tuple(Split(W[self.neurons, :], self.width, self.ranks, UNIT) for W in params)

    def whole(self, params):
        """Split parameters as whole ones, on all ranks."""
        return tuple(W.whole() for W in params)

    def local(self, params):
        """The rows of this rank."""
        return tuple(W.local for W in params)

    def check_inputs(self, x, params):
        """As that of `TwoLayer`; parameters that are not split over these ranks are refused too."""
        for i, W in enumerate(params):
            if not isinstance(W, Split) or W.ranks is not self.ranks:
                found = describe(W) if is_array(W) else type(W).__name__
                raise BackendError(f"params[{i}] is a {found}; expected rows of these ranks: network.init or network.split")
        super().check_inputs(x, self.local(params))

    def init(self, key, like):
        """As that of `TwoLayer`, to the bit: the rows of this rank."""
        return (self._own(self._drawn(key, like, self.neurons.start, self.neurons.stop)),)

    def init_at_zero(self, key, like):
        """As that of `TwoLayer`, to the bit: the rows of this rank."""
        return (self._own(self._drawn_in_twins(key, like, self.neurons.start, self.neurons.stop)),)

    def _own(self, W):
        return Split(W, self.width, self.ranks, UNIT)

    def forward(self, params, x, masks=True):
        """As that of `TwoLayer`; the outputs are the same on all ranks."""
        W, phi = params[0].local, activation(self.activation)
        f, blocks, kept = self._walk(W, x, self.neurons, masks)
        outputs = self.ranks.sum(f, "forward") / math.sqrt(self.width / self.outputs)
        whole = blocks_of_neurons(self.width, self.outputs, width_of_block(x))
        walk = len(whole), whole[0].stop
        of_ranks = {"first": self.neurons.start, "width": self.width, "ranks": self.ranks, "walk": walk}
        return outputs, Tape(SplitJacobian(x, x, W, phi, blocks, kept, self.outputs, **of_ranks), outputs)

    def traces(self, params, tape, dy):
        """`ValueError`: the signals of a sample lie on all ranks."""
        raise ValueError("neurons are split over ranks, and signals by samples with them; expected a method that reads no traces")


@dataclass(frozen=True)
class SplitJacobian(TwoLayerJacobian):
    """The Jacobian of the neurons of all ranks; ``walk`` is that of one rank alone, by which work is predicted."""

    ranks: object = None
    walk: tuple = ()

    closed: ClassVar[dict] = {"parameter": "neurons are split over ranks, and systems over the parameters with them"}

    @property
    def _walk(self):
        return self.walk

    def _over_ranks(self, x, what):
        return self.ranks.sum(x, what)

    def _split(self, V):
        return Split(V, self._neurons, self.ranks, UNIT)

    def matvec(self, v):
        """As `TwoLayerJacobian.matvec`, for a `Split`."""
        return super().matvec((v[0].local,))

    def rmatvec(self, u):
        """As `TwoLayerJacobian.rmatvec`; a `Split`."""
        return (self._split(*super().rmatvec(u)),)

    def gram_matvec_with_adjoint(self, u):
        """As `TwoLayerJacobian.gram_matvec_with_adjoint`; Jᵀ u is a `Split`."""
        image, adjoint = super().gram_matvec_with_adjoint(u)
        return image, (self._split(*adjoint),)

    def draw(self, distribution, key, s, like):
        """As `Jacobian.draw`, for this rank's neurons; `ValueError` for a sketch that mixes neurons, or for groups too wide."""
        if not getattr(distribution, "by_neurons", False):
            found = f"sketch is {distribution!r}, which mixes the neurons of several ranks"
            raise ValueError(f"{found}; expected NeuronSigns() or NeuronSamples()")
        S = distribution.sample(key, s, self.factor_shapes, like=like, neurons=slice(self.first, self.first + self.W.shape[0]))
        check_groups(self.ranks, self._neurons, s, S.group(0))
        return S

    def fold_left(self, layer, S):
        """M' (n c, k) of the groups that begin among the neurons of this rank."""
        xp, g = namespace(self.x), S.group(layer)
        M = super().fold_left(layer, S)
        if g == 1:
            return M
        begun = self.first % g != 0
        found = self.ranks.from_right(M[:, 0] if begun else xp.zeros_like(M[:, 0]), "border")
        if found is not None:
            M[:, -1] += found
        return M[:, 1:] if begun else M

    def _hadamard(self, left, layer):
        return self.ranks.sum(super()._hadamard(left, layer), "sketched Gram matrix")

    def entries(self, S):
        """Entries of the mean block of J SᵀS Jᵀ; as those of `FactorEntries.of`."""
        return SplitEntries(FactorEntries((self.inputs, self.fold_left(0, S))), self.ranks)

    def factors(self, rows):
        """`ValueError`: the signals of a sample lie on all ranks."""
        raise ValueError("neurons are split over ranks, and rows of the Jacobian with them; expected products or Gram matrices")

    def signals(self, dy):
        """`ValueError`, as `factors`."""
        return self.factors(dy)


def check_groups(ranks, width, s, group):
    """`ValueError` where a ``group`` of neurons, of which a sketch of ``s`` rows has the sum, is wider than what a rank has."""
    fewest, _ = ranks.fewest_and_most(width, UNIT)
    if group > fewest:
        found = f"a sketch of {s} rows sums groups of {group} neurons, and a rank has {fewest}"
        raise ValueError(f"{found}; expected fewer ranks or a larger sketch_size")


class SplitEntries:
    """Entries that are sums over ranks of those of ``own``, a `FactorEntries`: a source for `nearlin.linalg.PivotedCholesky`."""

    in_turn = True  # all ranks ask for the same, one after the other

    def __init__(self, own, ranks):
        self._own, self._ranks, self.diagonal = own, ranks, ranks.sum(own.diagonal, "diagonal")

    def entries(self, rows, columns):
        """As `FactorEntries.entries`; of a symmetric part, whose rows are its columns, the lower triangle travels."""
        own = self._own.entries(rows, columns)
        if rows is not columns or self._ranks.size == 1:
            return self._ranks.sum(own, "entries")
        return unpack_symmetric(self._ranks.sum(pack_symmetric(own), "entries"), own.shape[0])
