"""The Nyström preconditioner: exact at full rank, as good as theory says near the effective dimension, useless at rank 1."""

import math

import numpy as np
import pytest

from nearlin._array import BackendError
from nearlin.complexity import count, wrap
from nearlin.linalg import FactorizationError, cg, columns, nystrom

N, MU = 200, 1e-3
POWER_LAW = np.arange(1, N + 1.0) ** -3  # a Jacobian's singular values i^-1.5, squared: effective dimension 11.6 at MU
DIMENSION = float(np.sum(POWER_LAW / (POWER_LAW + MU)))


def symmetric(rng, eigenvalues):
    q, _ = np.linalg.qr(rng.standard_normal((len(eigenvalues), len(eigenvalues))))
    return (q * np.asarray(eigenvalues)) @ q.T


def norm(a):
    return np.linalg.norm(a, 2)


def dense(P, be=None):
    """U Λ Uᵀ."""
    U, values = (np.asarray(a if be is None else be.numpy(a), dtype=float) for a in (P.U, P.values))
    return (U * values) @ U.T


def iterations(A, b, mu, rtol, **options):
    info = cg(lambda v: A @ v + mu * v, b, rtol=rtol, **options)[1]
    assert info.reason == "converged"
    return info.iterations


class Recorded:
    """A as a ``matmat`` that remembers the arguments of its calls."""

    def __init__(self, a):
        self.a, self.calls = a, []

    def __call__(self, Z):
        self.calls.append(Z)
        return self.a @ Z

    @property
    def sketches(self):
        """The calls that are no step of the power method: columns of one call are orthogonal."""
        return [Z for Z in self.calls if Z.shape[1] > 1]


# -------------------------------------------------------------------------------------------------------- exact at rank n


def test_at_full_rank_it_is_the_inverse_times_a_factor(be, rng):
    n, mu = 30, 0.05
    a, b = symmetric(rng, np.geomspace(1e-2, 10, n)), rng.standard_normal(n)
    A = be.array(a)
    P = nystrom(lambda Z: A @ Z, n, 7, mu, like=be.like, rank=n)
    wanted = (0.01 + mu) * np.linalg.solve(a + mu * np.eye(n), b)
    np.testing.assert_allclose(be.numpy(P(be.array(b))), wanted, rtol=0, atol=be.tol(1e-12))
    assert P.rank == n
    assert iterations(A, be.array(b), mu, be.tol(1e-11), preconditioner=P) <= 2
    assert P.effective_dimension() == pytest.approx(np.trace(a @ np.linalg.inv(a + mu * np.eye(n))), rel=be.tol(1e-13))


def test_another_damping_needs_no_products(rng):
    n, a = 30, symmetric(rng, np.geomspace(1e-2, 10, 30))
    P, b = nystrom(lambda Z: a @ Z, n, 7, 0.05, like=a, rank=n).with_damping(0.5), rng.standard_normal(n)
    np.testing.assert_allclose(P(b), 0.51 * np.linalg.solve(a + 0.5 * np.eye(n), b), rtol=0, atol=1e-12)
    assert P.effective_dimension() == pytest.approx(np.trace(a @ np.linalg.inv(a + 0.5 * np.eye(n))))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_matrix_of_low_rank_is_found_exactly(rng, dtype):
    """Far more columns than its rank: Qᵀ A Q is singular, and factored all the same."""
    a = symmetric(rng, np.concatenate([np.geomspace(1, 0.1, 6), np.zeros(54)])).astype(dtype)
    P = nystrom(lambda Z: a @ Z, 60, 0, 1e-3, like=a, rank=20)
    assert norm(dense(P) - a) < 30 * np.finfo(dtype).eps
    assert (P.rank, P.reason) == (20, "converged")


def test_the_shift_that_a_factorisation_takes_is_taken_off_again(rng):
    """At full rank B Bᵀ = A + ν I; an eigenvalue of -200 eps makes ν more than that."""
    eps, spectrum = np.finfo(float).eps, np.array([1.0] * 5 + [0.5] * 4 + [0.0])
    a = symmetric(rng, spectrum - 200 * eps * (spectrum == 0))
    P = nystrom(lambda Z: a @ Z, 10, 0, 1.0, like=a, rank=10)
    np.testing.assert_allclose(P.values, spectrum, rtol=0, atol=60 * eps)


def test_of_a_zero_matrix_nothing_is_left(be, rng):
    P, r = nystrom(lambda Z: 0 * Z, 9, 0, 0.1, like=be.like, rank=3), be.array(rng.standard_normal(9))
    assert np.array_equal(be.numpy(P(r)), be.numpy(r))
    assert (P.error, P.effective_dimension(), P.reason) == (0.0, 0.0, "converged")


# --------------------------------------------------------------------------------------------------------- what it is worth


def test_twice_the_effective_dimension_is_enough(be, rng):
    A, b, rtol = be.array(symmetric(rng, POWER_LAW)), be.array(rng.standard_normal(N)), max(1e-6, be.tol(2e-13))
    P = nystrom(lambda Z: A @ Z, N, 0, MU, like=be.like, rank=math.ceil(2 * DIMENSION), accuracy=1e3)
    assert P.rank == math.ceil(2 * DIMENSION)
    plain = iterations(A, b, MU, rtol)
    assert iterations(A, b, MU, rtol, preconditioner=P) <= 6
    assert plain > 2 * 6


def test_rank_one_hardly_helps(rng):
    a, b = symmetric(rng, POWER_LAW), rng.standard_normal(N)
    P = nystrom(lambda Z: a @ Z, N, 0, MU, like=a, rank=1, max_rank=1)
    assert iterations(a, b, MU, 1e-6, preconditioner=P) > 0.8 * iterations(a, b, MU, 1e-6)


@pytest.mark.parametrize("rank", [5, 12, 24, 60])
@pytest.mark.parametrize("exponent", [3, 1.5])
def test_it_approximates_from_below_and_its_condition_number_has_the_bound_of_the_head(rng, rank, exponent):
    e = np.arange(1, N + 1.0) ** -exponent
    a = symmetric(rng, e)
    P = nystrom(lambda Z: a @ Z, N, 3, MU, like=a, rank=rank, accuracy=1e6)
    left = np.linalg.eigvalsh(a - dense(P))
    assert left[0] > -1e-14
    np.testing.assert_allclose(P.U.T @ P.U, np.eye(rank), atol=1e-13)
    assert np.all(np.diff(P.values) <= 0)
    assert np.all(P.values <= e[:rank] + 1e-14)
    inverse = np.stack([P(column) for column in np.eye(N)])
    spectrum = np.linalg.eigvals(inverse @ (a + MU * np.eye(N))).real
    assert spectrum.max() / spectrum.min() <= (P.values[-1] + MU + left[-1]) / MU * (1 + 1e-9)
    assert P.error == pytest.approx(left[-1], rel=0.15)
    assert P.error <= left[-1] * (1 + 1e-9)


# ---------------------------------------------------------------------------------------------------------- the rank it takes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mu", [1e-2, 1e-3, 1e-4])
def test_the_rank_stops_near_the_effective_dimension(rng, dtype, mu):
    a, dimension = symmetric(rng, POWER_LAW).astype(dtype), np.sum(POWER_LAW / (POWER_LAW + mu))
    P = nystrom(lambda Z: a @ Z, N, 0, mu, like=a, rank=2)
    assert (P.reason, P.error <= mu / 5) == ("converged", True)
    assert dimension < P.rank < 6 * dimension
    assert norm(a - dense(P)) < mu / 4
    assert 0.9 * dimension < P.effective_dimension() < dimension


def test_the_cap_is_reported(rng):
    a = symmetric(rng, np.ones(40))
    P = nystrom(lambda Z: a @ Z, 40, 0, 0.1, like=a)
    assert P.rank == 20
    assert P.reason == "capped: error 1 > 0.02 at the largest rank, 20"
    assert nystrom(lambda Z: a @ Z, 40, 0, 0.1, like=a, max_rank=11).rank == 11
    assert nystrom(lambda Z: a @ Z, 40, 0, 0.1, like=a, rank=64).rank == 40


def test_doubling_loses_nothing(rng):
    """U Λ Uᵀ = A Q (Qᵀ A Q)⁻¹ Qᵀ A for all the columns Q that were drawn on the way."""
    A = Recorded(symmetric(rng, POWER_LAW))
    P = nystrom(A, N, 0, 1e-2, like=A.a, rank=3)
    Q = np.concatenate(A.sketches, axis=1)
    Y = A.a @ Q
    assert [Z.shape[1] for Z in A.sketches] == [3, 3, 6, 12]
    np.testing.assert_allclose(Q.T @ Q, np.eye(24), atol=1e-14)
    assert norm(dense(P) - Y @ np.linalg.solve(Q.T @ Y, Y.T)) < 1e-13


def test_products_are_counted_and_none_is_made_twice(rng):
    A = Recorded(symmetric(rng, POWER_LAW))
    P = nystrom(A, N, 0, 1e-3, like=A.a, rank=4, power=7)
    assert P.products == sum(Z.shape[1] for Z in A.calls)
    assert [Z.shape[1] for Z in A.sketches] == [4, 4, 8, 16, 32]
    assert P.rank == 64
    assert 7 + 4 <= P.products - 64 <= 7 + 4 * 3  # one estimate to the end; four ranks seen to be too small in a step or two


def test_the_flops_are_those_of_the_head(rng):
    """At a fixed rank, besides the products; Qᵀ Q and the small matrices are lower terms."""
    n, k = 4000, 16
    a = wrap(rng.random((n, 1)))
    with count() as tally:
        nystrom(lambda Z: Z, n, 0, 1.0, like=a, rank=k, accuracy=1e9)
    assert tally.total == pytest.approx(25 * n * k**2 + 10 * 4 * n * k, rel=0.1)


# --------------------------------------------------------------------------------------------------- one key on all backends


def test_one_key_makes_one_preconditioner_on_all_backends(be, rng, numpy_backend):
    a, r = symmetric(rng, POWER_LAW), rng.standard_normal(N)
    A = be.array(a)
    P = nystrom(lambda Z: A @ Z, N, 5, 1e-2, like=be.like, rank=4)
    wanted = nystrom(lambda Z: a @ Z, N, 5, 1e-2, like=numpy_backend.like, rank=4)
    assert P.rank == wanted.rank
    np.testing.assert_allclose(be.numpy(P.values), wanted.values, rtol=0, atol=be.tol(1e-14))
    np.testing.assert_allclose(be.numpy(P(be.array(r))), wanted(r), rtol=0, atol=be.tol(1e-11))


def test_two_keys_make_two(rng):
    a = symmetric(rng, POWER_LAW)
    one, other = (nystrom(lambda Z: a @ Z, N, key, 1e-2, like=a).values for key in (0, 1))
    assert abs(one - other).max() > 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_is_kept(rng, dtype):
    a = symmetric(rng, POWER_LAW).astype(dtype)
    P = nystrom(lambda Z: a @ Z, N, 0, MU, like=a)
    assert P.U.dtype == P.values.dtype == P(a[0]).dtype == dtype


def test_a_product_with_a_vector_is_enough(be, rng):
    A = be.array(symmetric(rng, POWER_LAW[:40]))
    by_columns, whole = (nystrom(f, 40, 0, 1e-2, like=be.like, rank=4) for f in (columns(lambda v: A @ v), lambda Z: A @ Z))
    assert by_columns.rank == whole.rank
    np.testing.assert_allclose(be.numpy(by_columns.values), be.numpy(whole.values), rtol=0, atol=be.tol(1e-14))


# ------------------------------------------------------------------------------------------------------------------ bad input

BAD = {
    "damping is 0": {"damping": 0.0},
    "damping is -1": {"damping": -1.0},
    "damping is nan": {"damping": float("nan")},
    "rank is 0; expected an integer of at least 1": {"rank": 0},
    "rank is 2.5": {"rank": 2.5},
    "max_rank is 0": {"max_rank": 0},
    "power is 0": {"power": 0},
    "n is 0": {"n": 0},
    "accuracy is -1": {"accuracy": -1.0},
    "key is -1": {"key": -1},
}


@pytest.mark.parametrize("words", BAD)
def test_what_is_out_of_range_is_refused(words):
    with pytest.raises(ValueError, match=words):
        nystrom(**{"matmat": lambda Z: Z, "n": 8, "key": 0, "damping": 1.0, "like": np.ones(1)} | BAD[words])


def test_another_damping_is_looked_at(rng):
    P = nystrom(lambda Z: Z, 8, 0, 1.0, like=np.ones(1))
    with pytest.raises(ValueError, match="damping is 0"):
        P.with_damping(0.0)


@pytest.mark.parametrize(
    ("matmat", "error", "words"),
    [
        (lambda Z: Z[:, :1], ValueError, r"matmat\(Z\) has shape \(8, 1\); expected \(8, 4\)"),
        (lambda Z: Z * np.nan, ValueError, r"matmat\(Z\) holds 32 NaN"),
        (lambda Z: Z.astype("float32"), BackendError, "float32"),
        (lambda Z: -Z, FactorizationError, "eigenvalue -1; expected A symmetric positive semidefinite"),
    ],
)
def test_products_that_cannot_be_are_refused(matmat, error, words):
    with pytest.raises(error, match=words):
        nystrom(matmat, 8, 0, 1.0, like=np.ones(1), rank=4)


def test_like_says_which_dtypes_there_are():
    with pytest.raises(TypeError, match="like has dtype int64"):
        nystrom(lambda Z: Z, 8, 0, 1.0, like=np.ones(1, dtype="int64"))
