"""Kronecker-signed subsampled Hadamard transform of factored rows (TensorSRHT).

Formula     S_k = s'^(-1/2) (H_M[p_k, :] ∘ ε) ⊗ (H_D[q_k, :] ∘ ε'), k = 1..s', with M, D the next powers of two of the factor
            widths m, d; then signed sums over random groups of σ rows leave s = s' / σ. For a row left_i ⊗ right_i:
            (J Sᵀ)_ik = s'^(-1/2) [H(ε ∘ left_i)]_{p_k} [H(ε' ∘ right_i)]_{q_k}, so that no row of length m d is formed.
Reference   Ahle, Kapralov, Knudsen, Pagh, Velingker, Woodruff and Zandieh, Oblivious sketching of high-degree polynomial
            kernels (SODA 2020); Jin, Kolda and Ward, Faster Johnson-Lindenstrauss transforms via Kronecker products (2021).
Cost        b rows: at most 8 b (M log2 M + D log2 D) flops as dense 16-point products (see `fwht`) and 3 b σ s;
            m + d + 3 σ s entries are held per layer, b (M + D + 3 s) made.
Deviations  1. The indices p (and q) are concatenated random permutations cut to s', not independent uniform draws: all rows of
               the transform are used equally often.
            2. Oversampling by σ with signed sums over groups (a CountSketch of the rows); σ = 1 is the plain transform.
               On nearly collinear inputs σ = 4 restores the quality of a Gaussian sketch, which σ = 1 misses by 2 to 3 times.
            3. The random order in which rows are grouped is applied to p and q when they are drawn.
            4. Rows that are no products of factors (a normalisation's, a convolution's summed over positions) get a `SparseSign`.
"""

from dataclasses import dataclass
from typing import ClassVar

from nearlin import _array
from nearlin.linalg.hadamard import fwht, next_power_of_two, pad_rows
from nearlin.sketch._base import check_factors, check_layer
from nearlin.sketch.sparse_sign import SparseSign


@dataclass(frozen=True)
class KroneckerSRHT:
    """TensorSRHT with ``oversample`` = σ rows drawn for every row that is kept.

    Examples
    --------
    >>> left, right = np.ones((5, 1024)), np.ones((5, 16))  # row i of the Jacobian is left[i] ⊗ right[i]
    >>> S = nl.sketch.KroneckerSRHT().sample(0, s=64, shape=((1024, 16),), like=left)
    >>> S.rows(0, left, right).shape
    (5, 64)
    """

    factored: ClassVar[bool] = True
    oversampling: ClassVar[int] = 4
    oversample: int = 4

    def __post_init__(self):
        _array.settle(self, oversample=_array.integer(1))

    def sample(self, key, s, shape, *, like):
        """Draw the operators of ``key``, ``s`` rows on each of the layers with factor widths ``shape`` = ((m, d), ...).

        The draws of layers are independent, so that the sum of their contributions sketches the whole Jacobian. A layer whose
        rows are no products of factors is given by the length of its rows, and gets a `SparseSign`.
        """
        s, shapes = check_factors(s, shape, like, flat=True)
        layers = [self._drawn(_array.fold_in(key, index), s, one, like) for index, one in enumerate(shapes)]
        return KroneckerSRHTSample(s, shapes, tuple(layers))

    def _drawn(self, key, s, one, like):
        if isinstance(one, int):
            return SparseSign(min(SparseSign().nnz, s)).sample(key, s, one, like=like)
        return self._layer(key, s, *one, like)

    def _layer(self, key, s, m, d, like):
        xp = _array.namespace(like)
        rows = s * self.oversample
        keys = [_array.fold_in(key, piece) for piece in range(6)]
        order = _array.permutation(keys[4], rows, like)
        table = (self.oversample, s)
        return _Layer(
            left_signs=_array.signs(keys[0], m, like),
            right_signs=_array.signs(keys[1], d, like),
            left_index=xp.reshape(xp.take(_balanced_index(keys[2], next_power_of_two(m), rows, like), order), table),
            right_index=xp.reshape(xp.take(_balanced_index(keys[3], next_power_of_two(d), rows, like), order), table),
            weights=xp.reshape(_array.signs(keys[5], rows, like) * rows**-0.5, table),
        )


def _balanced_index(key, length, rows, like):
    """``rows`` indices below ``length``: random permutations one after the other, the last one cut."""
    rounds = -(-rows // length)
    parts = [_array.permutation(_array.fold_in(key, i), length, like) for i in range(rounds)]
    return _array.namespace(like).concat(parts, axis=0)[:rows]


@dataclass(frozen=True, eq=False)
class _Layer:
    """Signs ε (m,) and ε' (d,); row t of the tables (σ, s) holds p, q and ± s'^(-1/2) of the t-th member of each group."""

    left_signs: object
    right_signs: object
    left_index: object
    right_index: object
    weights: object


@dataclass(frozen=True, eq=False)
class KroneckerSRHTSample:
    """One draw for every layer: S_l (s, m_l d_l) with E[S_lᵀ S_l] = I on row-major (m_l, d_l) matrices."""

    s: int
    shapes: tuple
    layers: tuple

    def flat(self, layer):
        """The `SparseSign` sample of a layer that was given by the length of its rows."""
        check_layer(self.shapes, layer)
        return self.layers[layer]

    def rows(self, layer, left, right):
        """(left ⊙ right) S_lᵀ: the contribution of ``layer`` to J Sᵀ.

        Parameters
        ----------
        layer : int
        left, right : arrays (b, m_l) and (b, d_l)
            Row i of the layer's block of J is left[i] ⊗ right[i]. Not changed.

        Returns
        -------
        array (b, s)
            Contributions of layers are to be added.

        Raises
        ------
        ValueError
            No such layer, or factors of other widths or different numbers of rows.
        BackendError
            Factors on another backend or device, or in another dtype, than the sample.
        """
        self._check(layer, left, right)
        draw = self.layers[layer]
        a, c = _mixed(left, draw.left_signs), _mixed(right, draw.right_signs)
        return _array.namespace(left).matrix_transpose(_grouped_rows(draw, a, c))

    def dense(self, layer):
        """S_l as a matrix (s, m_l d_l), for tests and small sizes."""
        m, d = check_layer(self.shapes, layer)
        draw = self.layers[layer]
        xp = _array.namespace(draw.weights)
        a = _hadamard(m, draw.weights) * draw.left_signs
        c = _hadamard(d, draw.weights) * draw.right_signs
        total = xp.zeros((self.s, m * d), dtype=a.dtype, device=_array.device(a))
        for t in range(draw.weights.shape[0]):
            p, q, weights = draw.left_index[t, ...], draw.right_index[t, ...], draw.weights[t, ...]
            outer = xp.take(a, p, axis=0)[:, :, None] * xp.take(c, q, axis=0)[:, None, :]
            total = total + weights[:, None] * xp.reshape(outer, (self.s, m * d))
        return total

    def _check(self, layer, left, right):
        m, d = check_layer(self.shapes, layer)
        held = {"the sample": self.layers[layer].weights}
        _array.check(ndim={"left": 2, "right": 2}, finite=False, left=left, right=right, **held)
        b = left.shape[0]
        if tuple(left.shape) != (b, m) or tuple(right.shape) != (b, d):
            found = f"left has shape {tuple(left.shape)} and right has {tuple(right.shape)}"
            raise ValueError(f"{found}; expected (b, {m}) and (b, {d}) in layer {layer}")


def _mixed(factor, signs):
    """H(ε ∘ factor_i) for every row, as columns: (N, b)."""
    turned = _array.namespace(factor).matrix_transpose(factor) * signs[:, None]
    return fwht(pad_rows(turned, next_power_of_two(factor.shape[1])))


def _hadamard(width, like):
    """The first ``width`` columns of the Hadamard matrix of the next power of two."""
    n = next_power_of_two(width)
    return fwht(_array.namespace(like).eye(n, dtype=like.dtype, device=_array.device(like)))[:, :width]


def _grouped_rows(draw, a, c):
    """Signed sums over groups of the products A[p_k] ∘ C[q_k]: (s, b); one member of every group at a time."""
    xp = _array.namespace(a)
    total = 0.0
    for t in range(draw.weights.shape[0]):
        product = xp.take(a, draw.left_index[t, ...], axis=0) * xp.take(c, draw.right_index[t, ...], axis=0)
        total = total + product * draw.weights[t, ...][:, None]
    return total
