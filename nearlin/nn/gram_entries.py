r"""Entries of Gram matrices J Jᵀ that are never formed: for factorisations of a few columns, `nearlin.linalg.PivotedCholesky`.

Formula     K_ij = x_i·x_j (π - θ_ij) / 2π, θ_ij the angle between x_i and x_j: the wide two-layer ReLU network at its start
            G = Σ_l (A_l A_lᵀ ⊗ 1 1ᵀ) ∘ (Y_l Y_lᵀ), A_l (n, inp), Y_l (n c, s): layers' inputs, and their signals, sketched or not
Reference   the kernel: Cho, Saul, Kernel methods for deep learning (NeurIPS 2009); the Hadamard form: `nearlin.nn.jacobian`
Cost        2 d + 9 flops an entry of K; Σ_l (2 inp + 2 s + 2) - 1 an entry of G
Deviations  1. Cosines above 1 - 8 eps are 1: near there acos loses half of the digits, and equal rows would differ.
"""

import math

from nearlin import _array


class KernelEntries:
    """K for the rows of ``x`` (n, d): a source of entries; no draws, the same throughout a run. Rows of zeros give zeros."""

    def __init__(self, x):
        xp = _array.check(ndim={"x": 2}, x=x)
        square = xp.sum(x * x, axis=1)
        self.x, self.norms = x, xp.sqrt(xp.where(square > 0, square, 1.0))
        self.diagonal = square / 2

    def entries(self, rows, columns):
        """K[rows, columns] for ``rows``, a slice or integers, and ``columns``, integers."""
        xp, x, norms = _array.namespace(self.x), self.x, self.norms
        K = _taken(x, rows) @ xp.matrix_transpose(_taken(x, columns))
        cosine = K / (_taken(norms, rows)[:, None] * _taken(norms, columns)[None, :])
        K *= closeness(xp.where(cosine > 1 - 8 * float(xp.finfo(K.dtype).eps), 1.0, cosine))
        return K


def closeness(cosine):
    """(π - θ) / 2π for cos θ: the share of directions w with w·x > 0 and w·x' > 0 for two vectors at the angle θ."""
    xp = _array.namespace(cosine)
    return 0.5 - xp.acos(xp.clip(cosine, -1.0, 1.0)) / (2 * math.pi)


class FactorEntries:
    """G from pairs of factors, one for each layer: a source of entries. Rows are (sample, output).

    Parameters
    ----------
    *pairs : (array, array), shapes (n, inp) and (n c, s)
        A_l and Y_l; `nearlin.nn.Factor` has them as ``inputs`` and ``left``.
    """

    def __init__(self, *pairs):
        first = pairs[0][0]
        for layer, (A, Y) in enumerate(pairs):
            xp = _array.check(ndim={"A": 2, "Y": 2}, beside=("the first A", first), A=A, Y=Y)
            if A.shape[0] != first.shape[0] or Y.shape[0] != pairs[0][1].shape[0] or Y.shape[0] % A.shape[0]:
                found = f"pair {layer} has shapes {tuple(A.shape)} and {tuple(Y.shape)}"
                raise ValueError(f"{found}; expected (n, inp) and (n c, s) with the same n and c in all pairs")
        self.pairs, self.outputs = pairs, pairs[0][1].shape[0] // first.shape[0]
        repeated = [(xp.repeat(xp.sum(A * A, axis=1), self.outputs), Y) for A, Y in pairs]
        self.diagonal = sum(inputs * xp.sum(Y * Y, axis=1) for inputs, Y in repeated)

    def entries(self, rows, columns):
        """G[rows, columns] for ``rows``, a slice or integers, and ``columns``, integers."""
        xp, total = _array.namespace(self.diagonal), None
        samples, others = self._samples(rows), self._samples(columns)
        for A, Y in self.pairs:
            term = _taken(Y, rows) @ xp.matrix_transpose(_taken(Y, columns))
            term *= _taken(A, samples) @ xp.matrix_transpose(_taken(A, others))
            total = term if total is None else total + term
        return total

    def _samples(self, rows):
        """The samples that rows belong to."""
        if self.outputs == 1:
            return rows
        xp = _array.namespace(self.diagonal)
        if isinstance(rows, slice):
            rows = xp.arange(rows.start, rows.stop, dtype=xp.int64, device=_array.device(self.diagonal))
        return rows // self.outputs


def _taken(x, rows):
    return x[rows, ...] if isinstance(rows, slice) else _array.namespace(x).take(x, rows, axis=0)
