"""Randomly pivoted Cholesky against dense NumPy: what it finds, the law of its pivots, the preconditioner and its bound."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg

from nearlin import _array
from nearlin.complexity import count, counting, wrap
from nearlin.complexity.claims import data
from nearlin.linalg import FactorizationError, PivotedCholesky, cg, pivoted_cholesky
from nearlin.nn import FactorEntries

N = 60
SPECTRUM = np.arange(1, N + 1.0) ** -2


class Matrix:
    """A dense matrix as a source, with a diagonal of its own if asked."""

    def __init__(self, A, diagonal=None):
        self.A, xp = A, _array.namespace(A)
        self.diagonal = xp.linalg.diagonal(A) + 0.0 if diagonal is None else diagonal

    def entries(self, rows, columns):
        xp = _array.namespace(self.A)
        some = self.A[rows, :] if isinstance(rows, slice) else xp.take(self.A, rows, axis=0)
        return xp.take(some, columns, axis=1)


def symmetric(rng, eigenvalues):
    q, _ = np.linalg.qr(rng.standard_normal((len(eigenvalues), len(eigenvalues))))
    return (q * np.asarray(eigenvalues)) @ q.T


def kernel(x):
    """The limit kernel of two-layer ReLU networks for rows of any length, by angles that are exact to rounding."""
    size = np.linalg.norm(x, axis=1)
    return data.limit_kernel(x / size[:, None]) * np.outer(size, size)


def factored(A, rank, key=0):
    return PivotedCholesky(Matrix(A), key).grow(rank)


def dense(P):
    """F Fᵀ + μ I in float64."""
    F = np.asarray(P.factor.F, dtype=float)
    return F @ F.T + P.shift * np.eye(len(F))


def kappa(A, P):
    values = scipy.linalg.eigvalsh(A, P)
    return values[-1] / values[0]


# ------------------------------------------------------------------------------------------------------------ what it finds


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_at_full_rank_it_is_the_matrix(rng, dtype):
    A = symmetric(rng, SPECTRUM).astype(dtype)
    P = factored(A, N)
    assert sorted(P.pivots) == list(range(N))
    assert P.F.dtype == dtype
    np.testing.assert_allclose(P.F @ P.F.T, A, rtol=0, atol=20 * np.finfo(dtype).eps)
    assert P.remainder.max() == 0
    assert P.gram.dtype == np.float64


def test_it_is_the_cholesky_factorisation_with_these_pivots(rng):
    """A_:T A_TT⁻¹ A_T: of the first k pivots, in any number of rounds; what is left is positive semidefinite, d its diagonal."""
    A = symmetric(rng, SPECTRUM)
    P = factored(A, 40)
    T = list(P.pivots)
    assert P.rounds > 2
    np.testing.assert_allclose(P.F[T], np.linalg.cholesky(A[np.ix_(T, T)]), atol=1e-12)
    left = A - A[:, T] @ np.linalg.solve(A[np.ix_(T, T)], A[T])
    np.testing.assert_allclose(A - P.F @ P.F.T, left, atol=1e-13)
    np.testing.assert_allclose(P.remainder, np.diagonal(left), atol=1e-13)
    np.testing.assert_allclose(P.gram, P.F.T @ P.F, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_matrix_of_rank_three_stops_at_three(rng, dtype):
    root = rng.standard_normal((50, 3))
    P = factored((root @ root.T).astype(dtype), 20)
    assert (P.rank, P.exhausted) == (3, True)
    assert P.grow(30) is P


def test_what_is_left_of_rows_that_a_pivot_equals_is_no_rounding(rng):
    """But 0, and so is what is below it elsewhere."""
    A = np.tile(symmetric(rng, SPECTRUM), (2, 2))
    P, eps = factored(A, 30), np.finfo(float).eps
    twins = (np.asarray(P.pivots) + N) % (2 * N)
    assert not np.any(P.remainder[twins])
    kept = P.remainder != 0
    assert kept.any()
    assert np.all(P.remainder[kept] > 10 * eps * np.diagonal(A)[kept])


def test_what_is_below_rounding_of_the_trace_is_not_taken_and_its_eigenvalues_do_not_count():
    P = factored(np.diag([1.0, 1e-16]), 2)
    assert (P.rank, P.exhausted) == (1, True)
    P = factored(np.diag([1.0, 3e-16]), 2)
    assert P.rank == 2
    assert P.preconditioner(0.0).effective_dimension() == np.linalg.matrix_rank(P.F @ P.F.T) == 1


def test_growing_makes_no_column_twice_and_leaves_what_there_was(rng):
    A, asked = symmetric(rng, SPECTRUM), []
    source = Matrix(A)
    source.entries = lambda rows, columns: asked.append((rows, columns)) or Matrix(A).entries(rows, columns)
    few = PivotedCholesky(source, 0).grow(20)
    before, left = few.F.copy(), few.remainder.copy()
    more = few.grow(50)
    made = [j for rows, columns in asked if isinstance(rows, slice) for j in columns.tolist()]
    assert sorted(made) == sorted(set(made)) == sorted(more.pivots)
    assert more.pivots[:20] == few.pivots
    assert (few.rank, more.rank) == (20, 50)
    assert np.array_equal(few.F, before)
    assert np.array_equal(few.remainder, left)
    np.testing.assert_allclose(more.F @ more.F.T, factored(A, N).F @ factored(A, N).F.T, atol=2 * SPECTRUM[30])
    np.testing.assert_allclose(more.gram, more.F.T @ more.F, atol=1e-14)


def test_rows_in_blocks_are_the_same(rng, monkeypatch):
    A = symmetric(rng, SPECTRUM)
    whole = factored(A, 30)
    monkeypatch.setattr(_array, "block_length", lambda row_bytes, like, parts=1: 7)
    blocks = factored(A, 30)
    assert blocks.pivots == whole.pivots
    np.testing.assert_allclose(blocks.F, whole.F, atol=1e-14)
    np.testing.assert_allclose(blocks.gram, whole.gram, atol=1e-14)


def test_of_a_zero_matrix_nothing_is_left(be):
    P = PivotedCholesky(Matrix(be.array(np.zeros((4, 4)))), 0).grow(2)
    assert (P.rank, P.exhausted) == (0, True)
    applied = P.preconditioner(0.5)(be.array(np.ones(4)))
    assert be.numpy(applied).tolist() == [2.0] * 4
    with pytest.raises(FactorizationError, match="the matrix and its damping are 0"):
        P.preconditioner(0.0)


# -------------------------------------------------------------------------------------------------------- the law of the pivots


def sequential(A, k):
    """The probability of each sequence of k pivots, one after the other by the diagonal of the Schur complement."""
    law = {}
    for T in itertools.permutations(range(len(A)), k):
        left, p = A.copy(), 1.0
        for s in T:
            p *= left[s, s] / np.trace(left)
            left = left - np.outer(left[:, s], left[s]) / left[s, s]
        law[T] = p
    return law


def test_the_pivots_have_the_law_of_the_sequential_method():
    """χ² of 400 draws of pairs: 12 of them, 11 degrees of freedom, 31.3 at one in a thousand."""
    near = np.exp(-np.asarray([[0, 1, 9, 9], [1, 0, 9, 9], [9, 9, 0, 3], [9, 9, 3, 0]]) / 4)
    A, draws = near * np.sqrt(np.outer([1, 1.5, 1, 2], [1, 1.5, 1, 2])), 400
    law = sequential(A, 2)
    assert sum(law.values()) == pytest.approx(1)
    found = [factored(A, 2, key).pivots for key in range(draws)]
    distance = lambda p: sum((found.count(T) - draws * p[T]) ** 2 / (draws * p[T]) for T in law)  # noqa: E731
    assert distance(law) < 31.3
    first = np.diagonal(A) / np.trace(A)
    by_diagonal = {(i, j): first[i] * first[j] / (1 - first[i]) for i, j in law}  # what remains is not looked at
    assert distance(by_diagonal) > 31.3


def test_one_key_draws_the_same_pivots_on_all_backends(be, rng):
    A = _array.to_numpy(be.array(kernel(rng.standard_normal((80, 5)))))
    P, wanted = PivotedCholesky(Matrix(be.array(A)), 3).grow(40), factored(A, 40, key=3)
    assert P.pivots == wanted.pivots
    np.testing.assert_allclose(be.numpy(P.F), wanted.F, atol=be.tol(1e-12))
    assert factored(A, 40, key=4).pivots != wanted.pivots


def test_two_synchronisations_a_round(rng, monkeypatch):
    """On counting arrays, where every way out is known."""
    P, left = PivotedCholesky(Matrix(wrap(symmetric(rng, SPECTRUM))), 0), []
    monkeypatch.setattr(counting.Array, "to_numpy", lambda self: left.append(self.shape) or self._a.copy())
    for way in ("__float__", "__int__", "__bool__"):
        monkeypatch.setattr(counting.Array, way, lambda self: pytest.fail("one more synchronisation"))
    grown = P.grow(N)
    assert len(left) == 1 + 2 * grown.rounds  # and the diagonal
    assert max(map(math.prod, left)) <= 2 * 16 * 16


def test_the_flops_are_those_of_the_head():
    """With 2 n k² for F and FᵀF, and n b k for the squares of what is new."""
    n, k, b = 800, 128, 16
    A = np.diag(np.arange(1.0, n + 1))
    with count() as tally:
        P = PivotedCholesky(Matrix(wrap(A)), 0).grow(k)
    assert tally.total == pytest.approx(2 * n * k**2 + n * k * b, rel=0.04)
    with count() as tally:
        P.preconditioner(1.0)
    assert tally.total == pytest.approx(k**3 / 3 + 20 * k**2, rel=0.05)
    with count() as tally:
        P.preconditioner(1.0)(wrap(np.ones(n)))
    assert tally.flops["matmul"] + tally.flops["solve_triangular"] >= 4 * n * k + 2 * k**2


# -------------------------------------------------------------------------------------------------------- the preconditioner


def test_the_preconditioner_is_the_inverse(be, rng):
    A, b = symmetric(rng, SPECTRUM), rng.standard_normal(N)
    P = PivotedCholesky(Matrix(be.array(A)), 0).grow(20).preconditioner(1e-3)
    F, d = be.numpy(P.factor.F).astype(float), P.factor.remainder
    assert P.shift == pytest.approx(1e-3 + d.mean())
    assert d.mean() == pytest.approx(np.trace(A - F @ F.T) / N, rel=be.tol(1e-12))
    M = F @ F.T + P.shift * np.eye(N)
    np.testing.assert_allclose(be.numpy(P(be.array(b))), np.linalg.solve(M, b), rtol=0, atol=be.tol(1e-10))
    assert P.logdet() == pytest.approx(np.linalg.slogdet(M)[1], abs=be.tol(1e-10))
    values = np.linalg.eigvalsh(F @ F.T)[-20:]
    assert P.effective_dimension() == pytest.approx(np.sum(values / (values + 1e-3)), rel=be.tol(1e-10))
    other = P.with_damping(0.5)
    assert (other.damping, other.shift) == (0.5, 0.5 + d.mean())
    np.testing.assert_allclose(be.numpy(other(be.array(b))), np.linalg.solve(M + (0.5 - 1e-3) * np.eye(N), b), atol=be.tol(1e-12))


def test_the_effective_dimension_is_below_that_of_the_matrix_and_without_damping_the_rank(rng):
    A = symmetric(rng, SPECTRUM)
    P = factored(A, 40).preconditioner(1e-2)
    of_A = np.sum(SPECTRUM / (SPECTRUM + 1e-2))
    assert 0.8 * of_A < P.effective_dimension() < of_A
    assert P.with_damping(0.0).effective_dimension() == 40


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_shift_is_above_rounding(rng, dtype):
    root, eps = rng.standard_normal((50, 3)), np.finfo(dtype).eps
    A = (root @ root.T).astype(dtype)
    P = factored(A, 20).preconditioner(0.0)
    assert P.shift == pytest.approx(32 * eps * np.linalg.norm(A, 2), rel=0.05, abs=0)
    assert np.linalg.norm(P((A @ A[0]).astype(dtype)) - A[0]) < 0.2 * np.linalg.norm(A[0])


FAMILIES = {
    "sphere": lambda n: data.sphere(n, 4, 0),
    "near-duplicates": lambda n: data.near_duplicates(n, 8, 0, 1e-2),
    "offset": lambda n: data.offset(n, 8, 0),
    "clusters": lambda n: np.repeat(data.sphere(n // 8, 8, 0), 8, axis=0) + 1e-2 * data.sphere(n, 8, 1),
}


@pytest.mark.parametrize("rank", [8, 40])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_condition_number_has_the_bound_of_the_head(family, rank):
    A, n = kernel(FAMILIES[family](160)), 160
    for damping in (1e-5 * np.trace(A) / n, 1e-2 * np.trace(A) / n):
        P = factored(A, rank).preconditioner(damping)
        M, left = A + damping * np.eye(n), A - P.factor.F @ P.factor.F.T
        found = kappa(M, dense(P))
        tight = P.condition_bound(np.linalg.eigvalsh(M)[0], np.linalg.norm(left, 2))
        assert found <= tight * (1 + 1e-9) <= P.condition_bound() * (1 + 1e-6)
        assert tight < 10 * found
        for shift in (30 * P.shift, 0.1 * damping):  # that of the inverse from below, and from above
            other = P.factor.preconditioner(damping, shift)
            assert kappa(M, dense(other)) <= other.condition_bound(np.linalg.eigvalsh(M)[0], np.linalg.norm(left, 2)) * (1 + 1e-9)
    assert P.with_damping(0.0).condition_bound() == math.inf


def test_the_bound_holds_where_damping_is_all_that_is_left(rng):
    A = symmetric(rng, SPECTRUM)
    P = factored(A, N).preconditioner(0.1, shift=0.01)
    assert P.condition_bound() == pytest.approx(1.1 * 10)
    assert 8 < kappa(A + 0.1 * np.eye(N), dense(P)) <= 11


def iterations(A, damping, P):
    b = data.labels(len(A), 1)
    return cg(lambda v: A @ v + damping * v, b, rtol=1 / 6, preconditioner=P)[1].iterations


def uniform(A, rank, damping):
    """The preconditioner of columns drawn uniformly: what the random pivots are better than."""
    T = np.random.default_rng(0).choice(len(A), rank, replace=False)
    F = scipy.linalg.solve_triangular(np.linalg.cholesky(A[np.ix_(T, T)]), A[T], lower=True).T
    mu = damping + np.trace(A - F @ F.T) / len(A)
    return np.linalg.inv(F @ F.T + mu * np.eye(len(A))).__matmul__


def test_uniform_columns_miss_small_clusters():
    """270 rows that nearly agree, and 30 others."""
    x = np.concatenate([data.sphere(1, 16, 0) + 1e-2 * data.sphere(270, 16, 1), data.sphere(30, 16, 2)])
    A = kernel(x)
    damping = 1e-5 * np.trace(A) / len(A)
    random = iterations(A, damping, factored(A, 48).preconditioner(damping))
    assert 2 * random <= iterations(A, damping, uniform(A, 48, damping))


def test_a_tenth_of_the_shift_is_worse():
    A = kernel(data.sphere(400, 16, 0))
    damping = 1e-5 * np.trace(A) / len(A)
    factor = factored(A, 25)
    mean = factor.remainder.mean()
    default, tenth = (factor.preconditioner(damping, shift) for shift in (None, damping + 0.1 * mean))
    assert default.shift == pytest.approx(damping + mean)
    assert iterations(A, damping, tenth) >= 1.4 * iterations(A, damping, default)


# ------------------------------------------------------------------------------------------------------------------ bad input


class Short(Matrix):
    def entries(self, rows, columns):
        return super().entries(rows, columns)[:, :-1]


def bad(rng, what):
    A = symmetric(rng, SPECTRUM)
    return {
        "another diagonal": lambda: Matrix(A, 2 * np.diagonal(A)),
        "indefinite": lambda: Matrix(1.047 * np.eye(N) - 0.047),
        "a little indefinite": lambda: Matrix(np.asarray([[1.0, 1.025], [1.025, 1.0]])),
        "a column short": lambda: Short(A),
        "entries of NaN": lambda: Matrix(np.where(np.eye(N) > 0, A, np.nan)),
        "negative": lambda: Matrix(A, np.linspace(-1, 1, N)),
        "NaN": lambda: Matrix(A, np.full(N, np.nan)),
        "integers": lambda: Matrix(A, np.ones(N, dtype=int)),
        "float32": lambda: Matrix(A.astype("float32"), np.diagonal(A).copy()),
        "a row": lambda: Matrix(np.ones((1, N)), np.ones(N)),
    }[what]()


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        (
            "another diagonal",
            ValueError,
            r"^entry \(\d+, \d+\) of the matrix is .*; expected the same number from source.entries as",
        ),
        (
            "indefinite",
            FactorizationError,
            "^a Schur complement has -.* beside 1 in the matrix; expected a positive semidefinite matrix",
        ),
        ("a little indefinite", FactorizationError, "^a Schur complement has -0.0506 on its diagonal at row"),
        ("a column short", ValueError, r"^entries have shape \(16, 15\); expected \(16, 16\): rows, columns"),
        ("entries of NaN", ValueError, "^row [01] of the matrix holds NaN or Inf"),
        ("negative", ValueError, "^diagonal holds -1; expected at least 0"),
        ("NaN", ValueError, "^diagonal holds 60 NaN or Inf"),
        ("integers", TypeError, "^diagonal has dtype int64; expected float32 or float64"),
        ("float32", TypeError, "^diagonal has dtype float64, entries has float32: expected the same"),
        ("a row", (ValueError, IndexError), "out of bounds"),
    ],
)
def test_what_is_no_such_matrix_is_refused(rng, what, error, words):
    source = bad(rng, what)
    with pytest.raises(error, match=words):
        PivotedCholesky(source, 0).grow(min(30, len(source.diagonal)))


def test_a_failure_leaves_what_there_was(rng):
    source = Matrix(symmetric(rng, SPECTRUM))
    P = PivotedCholesky(source, 0).grow(10)
    before, remainder = P.F.copy(), P.remainder.copy()
    source.A = source.A * np.nan
    with pytest.raises(ValueError, match="is nan, and"):
        P.grow(20)
    assert np.array_equal(P.F, before)
    assert np.array_equal(P.remainder, remainder)
    assert P.rank == 10


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda P: P.grow(N + 1), "^rank is 61; expected at most 60, the rows of the matrix$"),
        (lambda P: P.grow(0), "^rank is 0; expected an integer of at least 1"),
        (lambda P: P.grow(2.5), "^rank is 2.5"),
        (lambda P: P.preconditioner(-1.0), "^damping is -1.0; expected a finite number, at least 0"),
        (lambda P: P.preconditioner(1.0, shift=0.0), "^shift is 0.0; expected a positive number"),
    ],
)
def test_what_is_out_of_range_is_refused(rng, call, words):
    with pytest.raises(ValueError, match=words):
        call(factored(symmetric(rng, SPECTRUM), 8))


def test_rejection_stops_at_what_is_wanted():
    H = np.eye(3)
    taken, L = pivoted_cholesky.accepted(H, np.asarray([0, 0, 1]), np.ones(2), np.zeros(2), np.zeros(3), 5)
    assert (taken, L.tolist()) == ([0, 2], [[1.0, 0.0], [0.0, 1.0]])  # a repeated proposal is taken once
    assert pivoted_cholesky.accepted(H, np.asarray([0, 0, 1]), np.ones(2), np.zeros(2), np.zeros(3), 1)[0] == [0]


@pytest.mark.parametrize(("scale", "rank"), [(1.0, 6), (1e-19, 0)])
def test_rows_whose_squares_underflow_are_none(scale, rank):
    """float32: 0 on the diagonal beside entries that are not; and a matrix of such rows alone."""
    Y = (scale * np.random.default_rng(0).standard_normal((40, 6))).astype("float32")
    Y[::3] *= np.float32(1e-22)
    factor = PivotedCholesky(FactorEntries((None, Y)), 0).grow(8)
    assert (factor.rank, factor.exhausted) == (rank, True)
    assert np.all(factor.remainder >= 0)
    r = np.ones(40, dtype="float32")
    np.testing.assert_allclose(factor.preconditioner(1.0)(r), np.linalg.solve(Y @ Y.T + np.eye(40), r), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("k", "smallest", "seed"), [(60, 1e-4, 43), (120, 1e-5, 34)])
def test_pivots_of_a_round_that_depend_on_each_other_are_rounding(k, smallest, seed):
    """float32: what is left of d falls below zero by more than √eps of the diagonal."""
    Y = (np.random.default_rng(seed).standard_normal((150, k)) * np.geomspace(1, smallest, k)).astype("float32")
    factor = PivotedCholesky(FactorEntries((None, Y)), seed).grow(150)
    F = factor.F.astype("float64")
    A = Y.astype("float64") @ Y.T
    assert factor.exhausted
    np.testing.assert_allclose(F @ F.T, A, atol=1e-3 * A.diagonal().max())
