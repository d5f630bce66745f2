"""What solves report, computed again by plain dense NumPy in float64: residual, iterations, products, reason, condition."""

import numpy as np
import pytest

from nearlin import curvature, linalg
from nearlin.curvature import DampedGram
from nearlin.linalg import DenseOperator, SolveInfo

N, P, DAMPING = 24, 50, 1e-2
SIZES = [("float32", 1.0), ("float32", 1e-22), ("float32", 1e-30), ("float32", 1e25), ("float64", 1e-170), ("float64", 1e170)]


def definite(rng, condition=100.0):
    q, _ = np.linalg.qr(rng.standard_normal((N, N)))
    return (q * np.geomspace(1, 1 / condition, N)) @ q.T


def jacobian(rng, condition=100.0):
    U, V = (np.linalg.qr(rng.standard_normal((k, N)))[0] for k in (N, P))
    return (U * np.geomspace(1, 1 / condition, N)) @ V.T


def true_residual(A, x, b):
    """||b - A x|| / ||b|| in float64, of numbers near 1: powers of two go in and out of A, x and b."""
    units = [2.0 ** round(np.log2(np.abs(a).max())) if a.any() else 1.0 for a in (A, b)]
    A, b = (a.astype("float64") / unit for a, unit in zip((A, b), units, strict=True))
    x = x.astype("float64") / units[1] * units[0]
    return np.linalg.norm(b - A @ x) / np.linalg.norm(b)


class Counted(DenseOperator):
    """A matrix that counts its products."""

    def __init__(self, matrix):
        super().__init__(matrix)
        object.__setattr__(self, "calls", [0, 0])

    def matvec(self, v):
        self.calls[0] += 1
        return super().matvec(v)

    def rmatvec(self, u):
        self.calls[1] += 1
        return super().rmatvec(u)


def solved(name, A, b, size=1.0, **options):
    """x, the certificate, and the products with A that were made."""
    A = Counted(A)
    if name in ("lsqr", "craig"):
        (x, _), info = getattr(linalg, name)(A, b, **options)
    else:
        given = {"chebyshev": {"bounds": (0.01 * size, size)}, "richardson": {"step": 1.5 / size}}.get(name, {})
        x, info = getattr(linalg, name)(A.matvec, b, **given, **options)
    return x, info, A.calls


SOLVERS = ["cg", "lsqr", "craig", "richardson", "chebyshev", "double_product"]


@pytest.mark.parametrize("rtol", [1e-2, 1e-6])
@pytest.mark.parametrize("name", SOLVERS)
def test_residual_iterations_and_products_are_what_was_done(rng, name, rtol):
    a, b = definite(rng, 30.0), rng.standard_normal(N)
    x, info, calls = solved(name, a, b, rtol=rtol, maxiter=20_000)
    assert info.residual == pytest.approx(true_residual(a, x, b), rel=1e-6)
    assert (info.reason, info.residual <= rtol) == ("converged", True)
    assert info.products == calls[0]
    each = 2 if name == "double_product" else 1
    assert info.iterations == (calls[0] - (name in ("cg", "lsqr", "craig"))) / each
    assert calls[1] == (info.iterations if name in ("lsqr", "craig") else 0)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solve_that_is_cut_short_says_so_and_by_how_much(rng, name):
    a, b = definite(rng), rng.standard_normal(N)
    x, info, _ = solved(name, a, b, rtol=1e-8, maxiter=3)
    assert (info.reason, info.iterations) == ("maxiter", 3)
    assert info.residual == pytest.approx(true_residual(a, x, b), rel=1e-9)
    assert info.residual > 1e-3


@pytest.mark.parametrize("rtol", [1e-2, 1e-7])
def test_without_a_certificate_the_residual_is_the_recursive_one_and_costs_no_product(rng, rtol):
    a, b = definite(rng), rng.standard_normal(N)
    x, info, calls = solved("cg", a, b, rtol=rtol, certify=False)
    assert info.residual == pytest.approx(true_residual(a, x, b), rel=1e-4)
    assert info.products == info.iterations == calls[0]


@pytest.mark.parametrize("drift", [1e-4, 1e-1])
@pytest.mark.parametrize("name", ["cg", "lsqr", "craig"])
def test_converged_is_not_said_above_the_tolerance(rng, name, drift):
    """The last product, the certificate's, is by (1 + drift) A: its residual is near ``drift``, far above the tolerance."""
    a, b = definite(rng), rng.standard_normal(N)
    count = solved(name, a, b, rtol=1e-6)[1].products

    class Drifting(Counted):
        def matvec(self, v):
            return (1 + drift * (self.calls[0] + 1 >= count)) * super().matvec(v)

    A = Drifting(a)
    info = linalg.cg(A.matvec, b, rtol=1e-6)[1] if name == "cg" else getattr(linalg, name)(A, b, rtol=1e-6)[1]
    assert info.reason == "stalled"
    assert info.residual == pytest.approx(drift, rel=0.01)


@pytest.mark.parametrize("name", ["cg", "lsqr", "craig"])
def test_the_condition_number_is_estimated_from_below_and_not_by_little(rng, name):
    a, b = definite(rng), rng.standard_normal(N)
    info = solved(name, a, b, rtol=1e-10)[1]
    of_a = 100.0 if name == "cg" else 1e4
    assert 0.98 * of_a < info.condition < of_a * (1 + 1e-6)
    assert 0.98 < info.largest < 1 + 1e-9
    early = solved(name, a, b, rtol=1e-10, maxiter=1)[1]
    assert early.condition == pytest.approx(1, abs=1e-12) or name == "lsqr"


# ---------------------------------------------------------------------------------------------------------- small and large


@pytest.mark.parametrize("where", ["b", "A"])
@pytest.mark.parametrize(("dtype", "size"), SIZES)
@pytest.mark.parametrize("name", ["cg", "lsqr", "craig", "chebyshev"])
def test_systems_of_any_size_are_solved_and_certified(rng, name, dtype, size, where):
    a, b = definite(rng), rng.standard_normal(N)
    a, b = (a * size, b) if where == "A" else (a, b / np.linalg.norm(b) * size)
    a, b = a.astype(dtype), b.astype(dtype)
    x, info, _ = solved(name, a, b, size if where == "A" else 1.0, rtol=1e-3)
    assert info.reason == "converged"
    assert info.residual == pytest.approx(true_residual(a, x, b), rel=0.05)
    assert x.dtype == dtype


@pytest.mark.parametrize(("dtype", "size"), SIZES)
def test_the_condition_number_does_not_depend_on_the_size(rng, dtype, size):
    """By powers of two, in five iterations: before long other roundings are other iterations."""
    a, b, size = definite(rng), rng.standard_normal(N), 2.0 ** round(np.log2(size))
    for name in ("cg", "lsqr", "craig"):
        five = [solved(name, (k * a).astype(dtype), b.astype(dtype), rtol=1e-12, maxiter=5)[1] for k in (1.0, size)]
        plain, scaled = (info.condition for info in five)
        assert scaled == pytest.approx(plain, rel=0.001)
        assert plain > 20


@pytest.mark.parametrize(("dtype", "size"), SIZES)
def test_nystrom_sees_its_error_at_any_size(rng, dtype, size):
    a, mu = definite(rng), 1e-3 * size
    A = (size * a).astype(dtype)
    with np.errstate(over="ignore"):
        P = linalg.nystrom(lambda Z: A @ Z, N, 0, mu, like=A, rank=4, max_rank=8)
    left = np.linalg.norm(A.astype(float) / size - (P.U.astype(float) * (P.values.astype(float) / size)) @ P.U.T.astype(float), 2)
    assert 0.8 * left < P.error / size <= left * (1 + 1e-4)
    assert P.reason.startswith("capped")
    full = linalg.nystrom(lambda Z: A @ Z, N, 0, mu, like=A, rank=N)
    assert (full.reason, full.error < 1e-5 * size) == ("converged", True)


@pytest.mark.parametrize("least", [1e-44, 1e-30])
def test_converged_without_an_iteration_means_that_b_is_zero(rng, least):
    a, b = definite(rng).astype("float32"), np.zeros(N, "float32")
    b[3] = least
    for name in ("cg", "lsqr", "craig", "chebyshev", "richardson"):
        assert solved(name, a, b, rtol=1e-3)[1].iterations > 0
        info = solved(name, a, 0 * b, rtol=1e-3)[1]
        assert (info.reason, info.iterations, info.residual) == ("converged", 0, 0.0)


@pytest.mark.parametrize("size", [1e-30, 1.0])
def test_an_image_that_is_summed_up_is_that_of_x_at_any_size(rng, size):
    J, b = jacobian(rng).astype("float32"), (size * rng.standard_normal(N)).astype("float32")
    operator = DampedGram(_Gram(J), DAMPING)
    x, _ = linalg.cg(operator, b, rtol=1e-3, on_step=operator.accumulate)
    np.testing.assert_allclose(operator.adjoint[0] / size, J.T @ (x / size), atol=1e-4 * np.abs(J.T @ x).max() / size)


@pytest.mark.parametrize("size", [1e-170, 1e-150, 1.0, 1e150, 1e170])
def test_norms_do_not_underflow(be, rng, size):
    a = rng.standard_normal(7)
    size = size if be.eps < 1e-10 else size**0.2
    want = np.linalg.norm(a)
    assert linalg.safe_norm(be.array(size * a)) / size == pytest.approx(want, rel=be.tol(1e-13))
    assert linalg.safe_norm((be.array(size * a[:3]), (be.array(size * a[3:]),))) / size == pytest.approx(want, rel=be.tol(1e-13))
    if size <= 1:
        assert linalg.norm(be.array(size * a)) / size == pytest.approx(want, rel=be.tol(1e-13))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_norms_of_what_is_not_finite_are_not(be, value):
    with np.errstate(invalid="ignore"):
        for norm in (linalg.norm, linalg.safe_norm):
            assert not np.isfinite(norm((be.array([1e-30, 0.0]), be.array([0.0, value]))))
            assert norm((be.array([0.0]), be.array([0.0, 0.0]))) == 0


# --------------------------------------------------------------------------------------------------------------- corrections


class _Gram(DenseOperator):
    """J on tuples of one array."""

    def matvec(self, v):
        return super().matvec(v[0])

    def rmatvec(self, u):
        return (super().rmatvec(u),)

    def gram_matvec_with_adjoint(self, u):
        v = self.rmatvec(u)
        return self.matvec(v), v


def exactly(a, spoil):
    """An inner solve by a dense factorisation whose answer leaves ``spoil(k)`` of the right-hand side, in its k-th call."""
    calls = []

    def solve(rest, rtol, limit):
        calls.append((np.linalg.norm(rest), rtol, limit))
        dg = (1 - spoil(len(calls))) * np.linalg.solve(a @ a.T + DAMPING * np.eye(N), rest)
        return dg, (a.T @ dg,), SolveInfo(spoil(len(calls)), 3, 3, "converged")

    return solve, calls


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
def test_every_correction_aims_at_the_tolerance_of_the_whole(rng, scale):
    """rtol ||b|| / ||rest|| in the k-th call, so that the last one ends at rtol ||b||; the limit is shared."""
    a, b = jacobian(rng), scale * rng.standard_normal(N)
    solve, calls = exactly(a, lambda k: 0.1)
    g, (delta,), image, info = curvature.gram_solve(_Gram(a), b, DAMPING, solve, 1e-5, 100)
    assert [rtol * size for size, rtol, _ in calls] == pytest.approx([1e-5 * np.linalg.norm(b)] * len(calls))
    assert [limit for _, _, limit in calls] == [100 - 3 * k for k in range(len(calls))]
    assert (len(calls), info.iterations, info.products) == (5, 15, 20)
    assert info.residual == pytest.approx(np.linalg.norm(b - a @ delta - DAMPING * g) / np.linalg.norm(b), rel=1e-6)
    np.testing.assert_allclose(image, a @ a.T @ g, atol=1e-12 * scale)


@pytest.mark.parametrize(("left", "reason"), [(1.0005, "converged"), (1.01, "stalled"), (1.5, "stalled"), (1.9, "stalled")])
def test_corrections_converge_at_the_tolerance_and_not_above(rng, left, reason):
    """The first solve leaves ``left`` times the tolerance, the next ones leave all of that."""
    a, b = jacobian(rng), rng.standard_normal(N)
    solve, _ = exactly(a, lambda k: left * 1e-3 if k == 1 else 1.0)
    info = curvature.gram_solve(_Gram(a), b, DAMPING, solve, 1e-3, 100).info
    assert info.reason == reason
    assert info.residual == pytest.approx(left * 1e-3, rel=1e-6)


def test_a_correction_that_leaves_more_than_nine_tenths_is_the_last(rng):
    a, b = jacobian(rng), rng.standard_normal(N)
    for share, most in ((0.95, 2), (0.8, 22)):
        solve, calls = exactly(a, lambda k, share=share: share)
        curvature.gram_solve(_Gram(a), b, DAMPING, solve, 1e-2, 1000)
        assert len(calls) == (most if share > 0.9 else pytest.approx(most, abs=2))


# ------------------------------------------------------------------------------------------------------- fixed parameters


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.8])
def test_the_interval_is_that_of_a_sketch_and_the_step_is_the_best_for_it(gamma):
    lo, hi = linalg.sketch_spectrum(gamma)
    assert (lo, hi) == pytest.approx((1 / (1 + gamma) ** 2, 1 / (1 - gamma) ** 2))
    steps = np.linspace(0.1, 2, 4001) / hi
    worst = np.maximum(np.abs(1 - steps * lo), np.abs(1 - steps * hi))
    assert linalg.best_step(gamma) == pytest.approx(steps[np.argmin(worst)], rel=2e-3) or worst.min() > 0.98
    assert np.abs(1 - linalg.best_step(gamma) * np.array([lo, hi])).max() <= worst.min() * (1 + 1e-9)


def test_a_gaussian_sketch_fills_the_interval(rng):
    n, s = 200, 800
    S = rng.standard_normal((s, n)) / s**0.5
    spectrum = 1 / np.linalg.svd(S, compute_uv=False) ** 2
    lo, hi = linalg.sketch_spectrum((n / s) ** 0.5)
    assert (spectrum.min(), spectrum.max()) == (pytest.approx(lo, rel=0.1), pytest.approx(hi, rel=0.1))


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_chebyshevs_residual_is_chebyshevs_polynomial(rng, steps):
    """r_k = T_k((θ - A) / δ) b / T_k(θ / δ), by the eigenvalues; Richardson's is (1 - ω A)^k b."""
    values, b = np.geomspace(0.2, 3, N), rng.standard_normal(N)
    lo, hi = 0.1, 4.0
    T = np.polynomial.Chebyshev.basis(steps)
    want = T((hi + lo - 2 * values) / (hi - lo)) / T((hi + lo) / (hi - lo)) * b
    x, info = linalg.chebyshev(lambda v: values * v, b, bounds=(lo, hi), rtol=0.0, maxiter=steps)
    np.testing.assert_allclose(b - values * x, want, atol=1e-12)
    assert info.residual == pytest.approx(np.linalg.norm(want) / np.linalg.norm(b))
    x, _ = linalg.richardson(lambda v: values * v, b, step=0.3, rtol=0.0, maxiter=steps)
    np.testing.assert_allclose(b - values * x, (1 - 0.3 * values) ** steps * b, atol=1e-12)
    x, _ = linalg.double_product(lambda v: values * v, b, preconditioner=lambda r: 0.3 * r, rtol=0.0, maxiter=steps)
    np.testing.assert_allclose(b - values * x, (1 - 0.09 * values**2) ** steps * b, atol=1e-12)


# ----------------------------------------------------------------------------------------------- damping, shifts of a sketch


def test_a_sketched_matrix_is_shifted_by_the_rounding_of_its_mean_eigenvalue(rng):
    """Tenfold from eps tr(G̃)/n on, the least that factors: the shift is told."""
    q, _ = np.linalg.qr(rng.standard_normal((N, N)))
    for depth, tens in ((0.3, 0), (3.0, 1), (300.0, 3)):
        values = np.ones(N)
        values[0] = -depth * np.finfo("float64").eps
        G = np.diag(values)
        R, how = linalg.sketch_factor(G, 0.0)
        shift = np.finfo("float64").eps * np.trace(G) / N * 10**tens
        assert how == f"cholesky, shift {shift:.1e}"
        np.testing.assert_allclose(R.T @ R, G + shift * np.eye(N), atol=1e-15)
    G = (q * np.where(np.arange(N) == 0, -1.0, 1.0)) @ q.T
    with pytest.raises(linalg.FactorizationError, match="sketched Gram matrix"):
        linalg.sketch_factor(G, 0.0)
