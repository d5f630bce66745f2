r"""Entries of Gram matrices J Jᵀ that are never formed: for factorisations of a few columns, `nearlin.linalg.PivotedCholesky`.

Formula     K_ij = x_i·x_j (π - θ_ij) / 2π, θ_ij the angle between x_i and x_j: the wide two-layer ReLU network at its start
            G = Σ_l (A_l A_lᵀ ⊗ 1 1ᵀ) ∘ (Y_l Y_lᵀ), A_l (n, inp), Y_l (n c, s): layers' inputs, and their signals, sketched or not
Reference   the kernel: Cho, Saul, Kernel methods for deep learning (NeurIPS 2009); the Hadamard form: `nearlin.nn.jacobian`
Cost        2 d + 9 flops an entry of K; Σ_l (2 inp / c + 2 s + 2) - 1 an entry of G in a slice of rows
Deviations  1. Cosines above 1 - max(8, 5 √d / 2) eps are 1: near there acos loses half of the digits, and equal rows would
               differ by the rounding of their products.
"""

import math
from dataclasses import dataclass, field

from nearlin import _array


@dataclass(frozen=True)
class KernelEntries:
    """K for the rows of ``x`` (n, d): a source of entries; no draws, the same throughout a run. Rows of zeros give zeros."""

    x: object
    norms: object = field(init=False, repr=False)
    diagonal: object = field(init=False, repr=False)

    def __post_init__(self):
        _array.check(ndim={"x": 2}, x=self.x)
        square = _squares(self.x)
        object.__setattr__(self, "norms", _norms(square))
        object.__setattr__(self, "diagonal", square / 2)

    def entries(self, rows, columns):
        """K[rows, columns] for ``rows``, a slice or integers, and ``columns``, integers."""
        xp, x, norms = _array.namespace(self.x), self.x, self.norms
        K = _products(x, rows, xp.matrix_transpose(_array.rows_of(x, columns)))
        cosine = K / (_array.rows_of(norms, rows)[:, None] * _array.rows_of(norms, columns)[None, :])
        rounding = max(8.0, 2.5 * math.sqrt(x.shape[1])) * float(xp.finfo(K.dtype).eps)
        K *= closeness(xp.where(cosine > 1 - rounding, 1.0, cosine))
        return K


def relu_kernel(x):
    """K (n, n) of all rows of ``x`` (n, d), a block of rows after the other."""
    xp, n, source = _array.namespace(x), x.shape[0], KernelEntries(x)
    K = xp.empty((n, n), dtype=x.dtype, device=_array.device(x))
    every = xp.arange(n, device=_array.device(x))

    def put(rows):
        K[rows, :] = source.entries(rows, every)

    _array.map_blocks(put, _array.slices(n, _array.block_length(n * _array.itemsize(x.dtype), x, parts=16)), x)
    return K


def closeness(cosine):
    """(π - θ) / 2π for cos θ: the share of directions w with w·x > 0 and w·x' > 0 for two vectors at the angle θ."""
    xp = _array.namespace(cosine)
    return 0.5 - xp.acos(_array.clipped(cosine, -1.0, 1.0)) / (2 * math.pi)


class FactorEntries:
    """G from pairs of factors, one for each layer: a source of entries. Rows are (sample, output).

    Parameters
    ----------
    *pairs : (array or None, array), shapes (n, inp) and (n c, s)
        A_l and Y_l; `nearlin.nn.Factor` has them as ``inputs`` and ``left``. None: Y_l is all there is of the layer's rows.
    """

    def __init__(self, *pairs):
        first = pairs[0][1]
        sizes = {"A": next((A.shape[0] for A, _ in pairs if A is not None), first.shape[0]), "Y": first.shape[0]}
        for layer, pair in enumerate(pairs):
            given = {name: a for name, a in zip("AY", pair, strict=True) if a is not None}
            xp = _array.check(ndim=dict.fromkeys(given, 2), finite=False, beside=("the first Y", first), **given)
            if any(a.shape[0] != sizes[name] for name, a in given.items()) or sizes["Y"] % sizes["A"]:
                found = f"pair {layer} has shapes {' and '.join(str(tuple(a.shape)) for a in given.values())}"
                raise ValueError(f"{found}; expected (n, inp) and (n c, s) with the same n and c in all pairs")
        self.pairs, self.outputs = pairs, sizes["Y"] // sizes["A"]
        squares = [[None if a is None else _array.by_rows(lambda a: xp.vecdot(a, a), a) for a in pair] for pair in pairs]
        self.diagonal = sum(Y if A is None else xp.repeat(A, self.outputs) * Y for A, Y in squares)

    @classmethod
    def of(cls, J, S=None):
        """Those of J Jᵀ, or, for a drawn sketch S, of J SᵀS Jᵀ; of the mean block where J Jᵀ is block-diagonal by outputs.

        Parameters
        ----------
        J : Jacobian
        S : sample, optional
            By `Jacobian.draw` of ``J.pooled()``. One of neurons alone leaves the inputs as they are: A = X, Y = M S₁ᵀ (n, m'),
            for n m adds; any other makes Y = J Sᵀ (n c, s). Without one, rows of dense layers are kept in factors, and others
            are explicit: c backward passes, and as many numbers as these have.

        Raises
        ------
        ValueError
            A layer couples samples: there are no rows of single samples.
        """
        J = J.pooled()
        if S is None:
            return cls(*map(_pair, J.factors(slice(0, J.samples))))
        if hasattr(J, "entries"):
            return J.entries(S)
        if hasattr(S, "left"):
            layers = getattr(J, "layers", (J,))
            return cls(*((layer.inputs, J.fold_left(l, S)) for l, layer in enumerate(layers)))
        return cls((None, J.sketch(S)))

    def entries(self, rows, columns):
        """G[rows, columns] for ``rows``, a slice or integers, and ``columns``, integers."""
        xp, total = _array.namespace(self.diagonal), None
        for A, Y in self.pairs:
            term = _array.rows_of(Y, rows) @ xp.matrix_transpose(_array.rows_of(Y, columns))
            if A is not None:
                term *= self._of_samples(A, rows, xp.matrix_transpose(_array.rows_of(A, self._samples(columns))))
            total = term if total is None else total + term
        return total

    def _samples(self, rows):
        """The samples that rows, integers, belong to."""
        return rows if self.outputs == 1 else rows // self.outputs

    def _of_samples(self, A, rows, others):
        """A ``others`` with a row for each output; of a slice every sample's product is made once."""
        c = self.outputs
        if not isinstance(rows, slice):
            return _array.rows_of(A, self._samples(rows)) @ others
        samples = slice(rows.start // c, -(-rows.stop // c))
        once, first = _products(A, samples, others), rows.start - samples.start * c
        return once if c == 1 else _array.namespace(A).repeat(once, c, axis=0)[first : first + rows.stop - rows.start, :]


def _pair(block):
    """A_l and Y_l of the rows of one layer, a `Factor`, `Rows` or `Positions`."""
    if hasattr(block, "left"):
        return block.inputs, block.left
    values = (block.summed() if hasattr(block, "summed") else block).values
    return None, _array.namespace(values).reshape(values, (-1, values.shape[2]))


def _products(x, rows, others):
    """x[rows] ``others``; of a map some rows at a time."""
    if not isinstance(rows, slice):
        return _array.rows_of(x, rows) @ others
    return _array.by_rows(lambda some: some @ others, x, rows, multiple=64)  # products of so many rows come out as in a whole


def _squares(x):
    """Squared norms of the rows (n,)."""
    xp = _array.namespace(x)
    return _array.by_rows(lambda rows: xp.sum(rows * rows, axis=1), x)


def _norms(square):
    """Norms from their squares; 1 for rows of zeros."""
    xp = _array.namespace(square)
    return xp.sqrt(xp.where(square > 0, square, 1.0))
