"""LSQR and CRAIG against dense ridge solutions, against conjugate gradients, and where there is no solution."""

import numpy as np
import pytest

from nearlin._array import BackendError
from nearlin.complexity import count, wrap
from nearlin.linalg import DenseOperator, cg, craig, lsqr

N, P = 24, 70
SPECTRUM = np.geomspace(3, 0.05, N)
DAMPINGS = [0.0, 1e-2]


def jacobian(rng, values=SPECTRUM, p=P):
    """(n, p) with these singular values."""
    left, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    right, _ = np.linalg.qr(rng.standard_normal((p, len(values))))
    return (left * values) @ right.T


def ridge(J, b, damping):
    return J.T @ np.linalg.solve(J @ J.T + damping * np.eye(len(b)), b)


def factor(rng, J, damping, rows=None):
    """R of QR of [S Jᵀ; √damping I], S with ``rows`` rows; without them, of [Jᵀ; √damping I]."""
    columns = J.T if rows is None else rng.standard_normal((rows, J.shape[1])) @ J.T / rows**0.5
    return np.linalg.qr(np.concatenate([columns, damping**0.5 * np.eye(len(J))])).R


def relative(found, wanted):
    return np.linalg.norm(np.asarray(found, dtype=float) - wanted) / np.linalg.norm(wanted)


def by_lsqr(*args, **options):
    solution, info = lsqr(*args, **options)
    return solution.step, info


def by_craig(*args, **options):
    solution, info = craig(*args, **options)
    return solution.step, info


@pytest.fixture(params=[by_lsqr, by_craig], ids=["lsqr", "craig"])
def solve(request):
    return request.param


class Watched(DenseOperator):
    """A dense operator that counts its products."""

    calls = 0

    def matvec(self, v):
        type(self).calls += 1
        return super().matvec(v)


# -------------------------------------------------------------------------------------------------------------- the answer


@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("rows", [0, 3 * N], ids=["plain", "sketched R"])
def test_the_step_is_that_of_the_dense_ridge_solution(be, rng, solve, damping, rows):
    J, b = jacobian(rng), rng.standard_normal(N)
    R = be.array(factor(rng, J, damping, rows)) if rows else None
    rtol = be.tol(1e-12)
    step, info = solve(DenseOperator(be.array(J)), be.array(b), damping, R, rtol=rtol)
    assert relative(be.numpy(step), ridge(J, b, damping)) <= be.tol(1e-11)
    assert (info.reason, info.residual <= 1.05 * rtol) == ("converged", True)


@pytest.mark.parametrize("damping", DAMPINGS)
def test_the_exact_factor_ends_in_one_iteration_or_two(be, rng, solve, damping):
    J, b = jacobian(rng), rng.standard_normal(N)
    R = be.array(factor(rng, J, damping))
    info = solve(DenseOperator(be.array(J)), be.array(b), damping, R, rtol=be.tol(1e-12))[1]
    assert info.reason == "converged"
    assert info.iterations <= 2
    assert info.condition < 1 + be.tol(1e-11)


@pytest.mark.parametrize("damping", DAMPINGS)
def test_a_wrong_factor_costs_iterations_and_changes_no_answer(rng, solve, damping):
    J, b = jacobian(rng), rng.standard_normal(N)
    wrong = factor(rng, jacobian(rng), damping)
    step, info = solve(DenseOperator(J), b, damping, wrong, rtol=1e-12, maxiter=1000)
    assert relative(step, ridge(J, b, damping)) <= 1e-9
    assert info.reason == "converged"
    assert info.iterations > 2 * solve(DenseOperator(J), b, damping, factor(rng, J, damping, 3 * N), rtol=1e-12)[1].iterations


@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("rows", [0, 3 * N], ids=["plain", "sketched R"])
def test_the_multiplier_of_craig_makes_the_step_and_solves_the_system(be, rng, damping, rows):
    J, b = jacobian(rng), rng.standard_normal(N)
    R = be.array(factor(rng, J, damping, rows)) if rows else None
    (step, g), _ = craig(DenseOperator(be.array(J)), be.array(b), damping, R, rtol=be.tol(1e-12))
    g = be.numpy(g)
    assert relative(J.T @ g, be.numpy(step)) <= be.tol(1e-12)
    assert relative(J @ (J.T @ g) + damping * g, b) <= be.tol(1e-11)


class Layers:
    """J = [J₁ J₂ J₃] on tuples of an array (a,), an array (a, c), and a tuple in the tuple."""

    def __init__(self, be, J):
        self.xp, self.parts = be.xp, [be.array(part) for part in np.split(J, [20, 50], axis=1)]

    def matvec(self, v):
        first, second, (third,) = v
        return self.parts[0] @ first + self.parts[1] @ self.xp.reshape(second, (30,)) + self.parts[2] @ third

    def rmatvec(self, u):
        first, second, third = (self.xp.matrix_transpose(part) @ u for part in self.parts)
        return first, self.xp.reshape(second, (5, 6)), (third,)


@pytest.mark.parametrize("damping", DAMPINGS)
def test_the_domain_may_be_a_tuple(be, rng, solve, damping):
    J, b = jacobian(rng), rng.standard_normal(N)
    (first, second, (third,)), _ = solve(Layers(be, J), be.array(b), damping, rtol=be.tol(1e-12))
    assert second.shape == (5, 6)
    flat = np.concatenate([be.numpy(part).ravel() for part in (first, second, third)])
    assert relative(flat, ridge(J, b, damping)) <= be.tol(1e-11)


def test_inputs_stay_as_they_were(rng, solve):
    J, b, R = jacobian(rng), rng.standard_normal(N), factor(rng, jacobian(rng), 1.0)
    before = [a.copy() for a in (J, b, R)]
    solve(DenseOperator(J), b, 1e-2, R, maxiter=5)
    assert all(np.array_equal(a, c) for a, c in zip((J, b, R), before, strict=True))


# --------------------------------------------------------------------------------------------- beside conjugate gradients


def test_craig_makes_the_iterates_of_conjugate_gradients(rng):
    J, b, damping = jacobian(rng), rng.standard_normal(N), 1e-2
    for k in range(1, 9):
        (_, g), info = craig(DenseOperator(J), b, damping, maxiter=k)
        x, other = cg(lambda v: J @ (J.T @ v) + damping * v, b, maxiter=k)
        np.testing.assert_allclose(g, x, rtol=1e-10)
        assert (info.condition, info.largest) == pytest.approx((other.condition, other.largest))
        assert info.residual == pytest.approx(other.residual)


def test_the_residuals_of_lsqr_and_the_errors_of_craig_never_grow(rng):
    J, b = jacobian(rng), rng.standard_normal(N)
    wanted, of_lsqr, of_craig = ridge(J, b, 0.0), [], []
    for k in range(1, 40):
        of_lsqr.append(lsqr(DenseOperator(J), b, maxiter=k)[1].residual)
        of_craig.append(relative(craig(DenseOperator(J), b, maxiter=k)[0].step, wanted))
    assert max(np.diff(of_lsqr)) <= 0
    assert max(np.diff(of_craig)) <= 0


SINGULAR_VALUES = np.repeat(np.geomspace(1, 1e-3, 6), 10)  # few, so that rounding costs few iterations


def in_float32(rng):
    """J and b in float32, and the step for these numbers."""
    J, b = jacobian(rng, SINGULAR_VALUES, 300).astype("float32"), rng.standard_normal(60).astype("float32")
    exact = np.linalg.qr(J.T.astype(float))
    return J, b, exact.Q @ np.linalg.solve(exact.R.T, b.astype(float))


@pytest.mark.parametrize("rows", [0, 240], ids=["plain", "sketched R"])
def test_the_condition_number_is_not_squared(rng, solve, rows):
    """float32, cond(J) = 1e3: eps cond(J) = 1e-4; conjugate gradients on J Jᵀ are left with eps cond(J)² = 0.1."""
    J, b, wanted = in_float32(rng)
    R = factor(rng, J, 0.0, rows).astype("float32") if rows else None
    step, _ = solve(DenseOperator(J), b, 0.0, R, rtol=1e-6)
    gram = J @ J.T
    by_cg = [relative(J.T @ cg(lambda v: gram @ v, b, rtol=1e-6, maxiter=k)[0], wanted) for k in (10, 20, 40, 80, 160)]
    assert step.dtype == np.float32
    assert relative(step, wanted) < 1e-4
    assert min(by_cg) > 50 * relative(step, wanted)


def test_the_residual_is_better_than_that_of_products_without_the_matrix(rng, solve):
    """With products J (Jᵀ v) the step of conjugate gradients is as good; its residual is not: it has the rounding of x."""
    J, b, wanted = in_float32(rng)
    step, info = solve(DenseOperator(J), b, rtol=1e-6)
    x, other = cg(lambda v: J @ (J.T @ v), b, rtol=1e-6)
    assert relative(J.T @ x, wanted) < 4 * relative(step, wanted)
    assert other.residual > 100 * info.residual


# ----------------------------------------------------------------------------------------------------- how a solve ends


def test_the_iterations_may_run_out(rng, solve):
    J, b = jacobian(rng), rng.standard_normal(N)
    info = solve(DenseOperator(J), b, rtol=1e-12, maxiter=1)[1]
    assert (info.reason, info.iterations, info.products) == ("maxiter", 1, 2)
    assert info.residual > 0.1


@pytest.mark.parametrize("damping", DAMPINGS)
def test_it_stops_at_the_first_iterate_whose_true_residual_meets_the_tolerance(rng, solve, damping):
    J, b = jacobian(rng), rng.standard_normal(N)
    residuals = [solve(DenseOperator(J), b, damping, rtol=0.0, maxiter=k)[1].residual for k in range(1, 30)]
    for rtol in (0.3, 0.1, 0.03):
        first = next(k for k, residual in enumerate(residuals, start=1) if residual <= rtol)
        assert solve(DenseOperator(J), b, damping, rtol=rtol)[1].iterations == first


def test_a_zero_right_hand_side_is_answered_with_zero(be, rng, solve):
    step, info = solve(DenseOperator(be.array(jacobian(rng))), be.array(np.zeros(N)), 1e-2)
    assert np.array_equal(be.numpy(step), np.zeros(P))
    assert (info.reason, info.iterations, info.residual) == ("converged", 0, 0.0)


def test_nan_in_the_right_hand_side_is_reported(be, rng, solve):
    b = rng.standard_normal(N)
    b[3] = np.nan
    step, info = solve(DenseOperator(be.array(jacobian(rng))), be.array(b), 1e-2)
    assert (info.reason, info.iterations) == ("non-finite", 0)
    assert np.array_equal(be.numpy(step), np.zeros(P))


@pytest.mark.parametrize("name", ["matvec", "rmatvec"])
def test_nan_in_a_product_is_reported_and_the_last_step_kept(rng, solve, name):
    calls = []

    class Broken(DenseOperator):
        def _or_nan(self, which, image):
            calls.append(which)
            return image * np.nan if which == name and calls.count(name) == 3 else image

        def matvec(self, v):
            return self._or_nan("matvec", super().matvec(v))

        def rmatvec(self, u):
            return self._or_nan("rmatvec", super().rmatvec(u))

    step, info = solve(Broken(jacobian(rng)), rng.standard_normal(N), 1e-2)
    assert (info.reason, info.iterations) == ("non-finite", 2)
    assert np.isfinite(step).all()


def test_no_iterations_make_a_zero_step(rng, solve):
    step, info = solve(DenseOperator(jacobian(rng)), rng.standard_normal(N), maxiter=0)
    assert np.array_equal(step, np.zeros(P))
    assert (info.reason, info.iterations, info.residual) == ("maxiter", 0, 1.0)


def test_a_right_hand_side_orthogonal_to_the_range_stalls_at_once(be, solve):
    J = DenseOperator(be.array([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]))
    step, info = solve(J, be.array([0.0, 1.0]))
    assert (info.reason, info.iterations, info.residual) == ("stalled", 0, 1.0)
    assert np.array_equal(be.numpy(step), np.zeros(3))


def test_a_tiny_system_that_is_solved_exactly(be, solve):
    """β₂ = 0: the residual is zero to the bit."""
    step, info = solve(DenseOperator(be.array([[2.0, 0.0], [0.0, 2.0]])), be.array([4.0, 0.0]), rtol=0.0)
    assert (info.reason, info.iterations, info.residual) == ("converged", 1, 0.0)
    assert np.array_equal(be.numpy(step), [2.0, 0.0])


@pytest.mark.parametrize("rank", [5, 15])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_a_solution_lsqr_ends_at_least_squares_and_craig_says_stalled(rng, rank, dtype):
    J = jacobian(rng, np.concatenate([np.geomspace(1, 0.1, rank), np.zeros(N - rank)])).astype(dtype)
    b, eps = rng.standard_normal(N).astype(dtype), float(np.finfo(dtype).eps)
    wanted = np.linalg.pinv(J.astype(float), rcond=1e-4) @ b
    step, info = by_lsqr(DenseOperator(J), b, rtol=1e3 * eps)
    assert info.reason == "stalled"
    assert relative(step, wanted) < 1e3 * eps
    assert info.iterations < 5 * rank
    info = craig(DenseOperator(J), b, rtol=1e3 * eps)[1]
    assert info.reason == "stalled"
    assert info.iterations < 5 * rank


def test_with_damping_there_is_always_a_solution(rng, solve):
    J = jacobian(rng, np.concatenate([np.geomspace(1, 0.1, 10), np.zeros(N - 10)]))
    b = rng.standard_normal(N)
    step, info = solve(DenseOperator(J), b, 1e-4, rtol=1e-12)
    assert info.reason == "converged"
    assert relative(step, ridge(J, b, 1e-4)) < 1e-9


def test_the_certificate_is_the_true_residual(rng, solve):
    """An operator that changes between calls: the recursion believes in convergence, the certificate does not."""

    class Drifting(DenseOperator):
        calls = 0

        def matvec(self, v):
            type(self).calls += 1
            return (1.1 if self.calls > 5 else 1.0) * super().matvec(v)

    J = jacobian(rng)
    info = solve(Drifting(J), rng.standard_normal(N), 1e-2, factor(rng, J, 1e-2, 10 * N), rtol=1e-3)[1]
    assert info.reason == "stalled"
    assert info.residual > 1e-2


# ------------------------------------------------------------------------------------------------------------- the cost


def test_products_are_counted_with_the_certificate(rng, solve):
    Watched.calls = 0
    info = solve(Watched(jacobian(rng)), rng.standard_normal(N), 1e-2)[1]
    assert info.products == info.iterations + 1 == Watched.calls


@pytest.mark.parametrize(("n", "p"), [(10, 100), (13, 100), (10, 131)])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_an_iteration_costs_what_the_head_says(rng, solve, n, p, preconditioned):
    J, b = wrap(rng.standard_normal((n, p))), wrap(rng.standard_normal(n))
    R = wrap(5 * np.eye(n)) if preconditioned else None
    flops = []
    for k in (5, 6):
        with count() as tally:
            solve(DenseOperator(J), b, 1.0, R, rtol=0.0, maxiter=k)
        flops.append(tally.total)
    own = 9 * p + 22 * n - 4 if solve is by_lsqr else 7 * p + 18 * n - 4
    assert flops[1] - flops[0] == own + 4 * n * p + (2 * n * n if preconditioned else 0)


# ------------------------------------------------------------------------------------------------------------ bad input

BAD = {
    "damping is -1": {"damping": -1.0},
    "damping is nan": {"damping": float("nan")},
    "rtol is": {"rtol": 1.0},
    r"R has shape \(3, 3\); expected \(24, 24\)": {"R": np.eye(3)},
    "b has shape": {"b": np.ones((N, 1))},
}


@pytest.mark.parametrize("words", BAD)
def test_what_does_not_fit_is_refused(rng, solve, words):
    with pytest.raises(ValueError, match=words):
        solve(DenseOperator(jacobian(rng)), **{"b": np.ones(N)} | BAD[words])


def test_a_factor_of_another_dtype_is_refused(rng, solve):
    with pytest.raises(BackendError, match="R has float32"):
        solve(DenseOperator(jacobian(rng)), np.ones(N), R=np.eye(N, dtype="float32"))
