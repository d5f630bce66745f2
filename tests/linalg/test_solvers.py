"""Conjugate gradients and the fixed iterations, on a zoo of named systems."""

import json

import numpy as np
import pytest

from nearlin import _array, linalg


def symmetric(rng, eigenvalues):
    q, _ = np.linalg.qr(rng.standard_normal((len(eigenvalues), len(eigenvalues))))
    return (q * np.asarray(eigenvalues)) @ q.T


SPECTRA = {"clustered": [1.0] * 10 + [5.0] * 10 + [20.0] * 10, "geometric": np.geomspace(1e-3, 1e2, 30), "single": [3.0]}


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_cg_solves_definite_systems(be, rng, spectrum):
    a, b = symmetric(rng, SPECTRA[spectrum]), rng.standard_normal(len(SPECTRA[spectrum]))
    A = be.array(a)
    rtol = be.tol(1e-11)
    x, info = linalg.cg(lambda v: A @ v, be.array(b), rtol=rtol)
    assert info.reason == "converged"
    assert info.residual <= 1.05 * rtol
    assert np.linalg.norm(a @ be.numpy(x) - b) <= 1.1 * rtol * np.linalg.norm(b)


def test_cg_from_a_start_solves_to_the_tolerance_of_b(be, rng):
    """The correction's right-hand side is a thousandth of b: three digits less to do, one product more to do it from."""
    a, b = symmetric(rng, np.geomspace(1, 50, 40)), rng.standard_normal(40)
    start, A, rtol = np.linalg.solve(a, b) * (1 + 1e-3 * rng.standard_normal(40)), be.array(a), be.tol(1e-11)
    calls, image = [], []

    def matvec(v):
        calls.append(v)
        return A @ v

    x, info = linalg.cg(
        matvec, be.array(b), start=be.array(start), rtol=rtol, on_step=lambda c: image.append(c * (A @ calls[-1]))
    )
    assert (info.reason, info.products, len(calls)) == ("converged", info.iterations + 2, info.iterations + 2)
    assert np.linalg.norm(a @ be.numpy(x) - b) <= 1.1 * rtol * np.linalg.norm(b)
    assert info.iterations < linalg.cg(lambda v: A @ v, be.array(b), rtol=rtol)[1].iterations
    np.testing.assert_allclose(be.numpy(sum(image)), a @ be.numpy(x), atol=be.tol(1e-11))


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_cg_stays_at_a_start_that_solves_and_forgets_one_for_zero(scale):
    a, b = np.diag([1.0, 2.0, 4.0]), scale * np.array([3.0, 1.0, 2.0])
    start = np.array([1.0, 0.5, 0.25]) * b
    x, info = linalg.cg(lambda v: a @ v, b, start=start)
    assert (info.reason, info.iterations, info.products) == ("converged", 0, 2)
    np.testing.assert_allclose(x, start, rtol=1e-15)
    x, info = linalg.cg(lambda v: a @ v, 0 * b, start=start)
    assert (info.reason, info.iterations, np.any(x)) == ("converged", 0, False)


def test_cg_takes_the_residual_of_a_start_at_its_word(be, rng):
    """One product less, and the same numbers where it is the right one; a wrong one goes into x, and the certificate sees it."""
    a, b, start = symmetric(rng, np.geomspace(1, 50, 40)), rng.standard_normal(40), rng.standard_normal(40)
    A, calls = be.array(a), []
    options = {"start": be.array(start), "rtol": be.tol(1e-11)}
    plain, full = linalg.cg(lambda v: A @ v, be.array(b), **options)
    rest = be.array(b) - A @ be.array(start)
    x, info = linalg.cg(lambda v: A @ v, be.array(b), rest=rest, on_step=calls.append, **options)
    assert (info.iterations, info.products, len(calls)) == (full.iterations, full.products - 1, info.iterations)
    assert np.array_equal(be.numpy(x), be.numpy(plain))
    assert linalg.cg(lambda v: A @ v, be.array(b), rest=2 * rest, **options)[1].reason == "stalled"


@pytest.mark.parametrize("name", ["start", "rest"])
def test_cg_refuses_a_start_that_does_not_fit(name):
    with pytest.raises(ValueError, match=rf"{name} has shape \(2,\); expected \(3,\)"):
        linalg.cg(lambda v: v, np.ones(3), **{name: np.ones(2)})
    with pytest.raises(_array.BackendError, match="start has float32"):
        linalg.cg(lambda v: v, np.ones(3), start=np.ones(3, dtype=np.float32))


@pytest.mark.parametrize(("exit", "word"), [(e, e.value) for e in linalg.Exit])
def test_an_exit_is_its_word_and_says_what_it_means(exit, word):
    assert exit == word
    assert (f"{exit}", f"{exit!r}", json.dumps([exit])) == (word, repr(word), json.dumps([word]))
    assert len(exit.meaning.split()) > 2


def test_cg_ends_after_as_many_steps_as_there_are_eigenvalues(rng):
    a = symmetric(rng, SPECTRA["clustered"])
    assert linalg.cg(lambda v: a @ v, rng.standard_normal(30), rtol=1e-10)[1].iterations == 3


def test_cg_estimates_the_condition_number_from_below(rng):
    a = symmetric(rng, np.geomspace(1, 50, 40))
    condition = linalg.cg(lambda v: a @ v, rng.standard_normal(40), rtol=1e-12)[1].condition
    assert 49 < condition < 50 * (1 + 1e-9)


def test_the_exact_preconditioner_ends_in_one_iteration(be, rng):
    a = symmetric(rng, np.geomspace(1e-2, 1e2, 25))
    A, R = be.array(a), linalg.damped_cholesky(be.array(a), 0.0)
    b, M = be.array(rng.standard_normal(25)), linalg.TriangularPreconditioner(R)
    info = linalg.cg(lambda v: A @ v, b, preconditioner=M, rtol=1e-3)[1]
    assert info.iterations == 1


def test_a_wrong_preconditioner_does_not(rng):
    a, other = symmetric(rng, np.geomspace(1e-2, 1e2, 25)), symmetric(rng, np.geomspace(1e-2, 1e2, 25))
    M = linalg.TriangularPreconditioner(linalg.damped_cholesky(other, 0.0))
    assert linalg.cg(lambda v: a @ v, rng.standard_normal(25), preconditioner=M, rtol=1e-3)[1].iterations > 10


def test_cg_reports_nonpositive_curvature_instead_of_hiding_it(be, rng):
    A = be.array(symmetric(rng, [-1.0, 1.0, 2.0, 3.0]))
    assert linalg.cg(lambda v: A @ v, be.array([1.0, 1.0, 1.0, 1.0]))[1].reason == "nonpositive curvature"


def test_cg_reports_nan(be):
    info = linalg.cg(lambda v: v * float("nan"), be.array([1.0, 2.0]))[1]
    assert info.reason == "non-finite"


def test_cg_reports_that_its_iterations_ran_out(rng):
    a = symmetric(rng, np.geomspace(1e-6, 1, 30))
    info = linalg.cg(lambda v: a @ v, rng.standard_normal(30), rtol=1e-12, maxiter=5)[1]
    assert (info.reason, info.iterations, info.products) == ("maxiter", 5, 6)


def test_a_zero_right_hand_side_is_answered_with_zero(be):
    x, info = linalg.cg(lambda v: v, be.array([0.0, 0.0]))
    assert float(be.xp.max(be.xp.abs(x))) == 0
    assert (info.reason, info.iterations, info.residual) == ("converged", 0, 0.0)


def test_the_certificate_is_the_true_residual(rng):
    """An operator that changes between calls: the recursion believes in convergence, the certificate does not."""
    a, calls = symmetric(rng, np.geomspace(1, 10, 20)), []

    def drifting(v):
        calls.append(1)
        return a @ v * (1 + 0.1 * len(calls))

    assert linalg.cg(drifting, rng.standard_normal(20), rtol=1e-8)[1].reason == "stalled"


def test_on_step_accumulates_a_linear_image(rng):
    a, J = symmetric(rng, np.geomspace(1, 10, 20)), rng.standard_normal((5, 20))
    images, total = [], np.zeros(5)

    def matvec(v):
        images.append(J @ v)
        return a @ v

    def on_step(alpha):
        nonlocal total
        total = total + alpha * images[-1]

    x, _ = linalg.cg(matvec, rng.standard_normal(20), rtol=1e-10, certify=False, on_step=on_step)
    np.testing.assert_allclose(total, J @ x, rtol=1e-12)


@pytest.mark.parametrize("epsilon", [5e-4, 1e-2])
def test_slow_progress_ends_where_the_rule_says(rng, epsilon):
    """(φ_i - φ_{i-k}) / φ_i < k ε with φ = ½ xᵀA x - bᵀx from the iterates themselves, k = max(10, ⌈i/10⌉); not before."""
    a, b = symmetric(rng, np.geomspace(1e-4, 1e2, 150)), rng.standard_normal(150)
    values, stop = [0.0], linalg.SlowProgress(b, epsilon)

    def seen(x, r):
        values.append(0.5 * x @ a @ x - b @ x)
        return stop(x, r)

    _, info = linalg.cg(lambda v: a @ v, b, rtol=1e-12, stop=seen)
    slow = [
        i > k and (values[i] - values[i - k]) / values[i] < k * epsilon
        for i in range(1, len(values))
        for k in [max(10, -(-i // 10))]
    ]
    assert slow == [False] * (info.iterations - 1) + [True]
    assert 10 < info.iterations < 1500
    assert (info.reason, info.residual > 1e-6) == ("converged", True)


@pytest.mark.parametrize("epsilon", [5e-4, 0.2])
def test_slow_progress_judges_any_iterates_by_their_phi_and_not_before_i_exceeds_k(rng, epsilon):
    """Steepest descent, whose residuals are not orthogonal to its iterates as those of CG are."""
    a, b = symmetric(rng, np.geomspace(1e-3, 1, 40)), rng.standard_normal(40)
    stop, x, values = linalg.SlowProgress(b, epsilon), np.zeros(40), [0.0]
    for i in range(1, 400):
        x = x + 1.5 * (b - a @ x)
        values.append(0.5 * x @ a @ x - b @ x)
        k = max(10, -(-i // 10))
        assert stop(x, b - a @ x) == (i > k and values[i] - values[i - k] > k * epsilon * values[i])


def test_ten_iterations_are_never_stopped(rng):
    a, b = symmetric(rng, np.geomspace(1, 2, 30)), rng.standard_normal(30)
    found = [linalg.cg(lambda v: a @ v, b, rtol=1e-6, stop=stop)[1] for stop in (None, linalg.SlowProgress(b, 0.5))]
    assert found[0] == found[1]
    assert 5 < found[0].iterations <= 10


@pytest.mark.parametrize("rtol", [-1e-3, 1.0, float("nan")])
def test_a_tolerance_outside_its_range_is_refused(rtol):
    with pytest.raises(ValueError, match="rtol is"):
        linalg.cg(lambda v: v, np.ones(2), rtol=rtol)


def preconditioned(rng, gamma, n=40):
    """A and M with the spectrum of M⁻¹A filling [(1+γ)⁻², (1-γ)⁻²]."""
    lo, hi = linalg.sketch_spectrum(gamma)
    root = np.linalg.cholesky(symmetric(rng, np.geomspace(1e-2, 1e2, n)))
    a = root @ symmetric(rng, np.linspace(lo, hi, n)) @ root.T
    return a, linalg.TriangularPreconditioner(root.T.copy())


@pytest.mark.parametrize("name", ["richardson", "chebyshev", "double_product"])
def test_the_fixed_iterations_solve_what_a_large_sketch_preconditions(be, rng, name):
    a, M = preconditioned(rng, gamma=50**-0.5)
    A, M, b = be.array(a), linalg.TriangularPreconditioner(be.array(M.R)), be.array(rng.standard_normal(40))
    options = {"bounds": linalg.sketch_spectrum(50**-0.5)} if name == "chebyshev" else {}
    rtol = be.tol(1e-10)
    _, info = getattr(linalg, name)(lambda v: A @ v, b, preconditioner=M, rtol=rtol, **options)
    assert (info.reason, info.residual <= rtol) == ("converged", True)


@pytest.mark.parametrize(
    ("name", "ratio", "reason"),
    [
        ("richardson", 11, "stalled"),
        ("richardson", 12.5, "converged"),
        ("double_product", 38, "stalled"),
        ("double_product", 42, "converged"),
    ],
)
def test_unit_steps_need_the_sketch_sizes_of_the_theory(rng, name, ratio, reason):
    """Richardson needs s > 11.66 n, the double product s > 39.5 n; here the spectrum fills its interval."""
    a, M = preconditioned(rng, gamma=ratio**-0.5)
    b = rng.standard_normal(40)
    assert getattr(linalg, name)(lambda v: a @ v, b, preconditioner=M, rtol=1e-6, maxiter=5000)[1].reason == reason


@pytest.mark.parametrize("factor", [2.0, 5.0])
def test_an_iteration_ends_as_stalled_where_its_residual_has_grown_by_a_factor_of_1e4(factor):
    """A = (1 + q) I with unit steps: the residual grows by q an iteration."""
    _, info = linalg.richardson(lambda v: (1 + factor) * v, np.ones(3))
    assert (info.reason, info.iterations) == ("stalled", int(np.ceil(np.log(1e4) / np.log(factor))))
    np.testing.assert_allclose(info.residual, factor**info.iterations, rtol=1e-9)


def test_chebyshev_contracts_as_fast_as_theory_says(rng):
    """Factor γ per iteration for the interval of a sketch: (√κ - 1)/(√κ + 1) = γ."""
    gamma = 0.5
    a, M = preconditioned(rng, gamma)
    b = rng.standard_normal(40)
    info = linalg.chebyshev(lambda v: a @ v, b, preconditioner=M, bounds=linalg.sketch_spectrum(gamma), rtol=1e-10)[1]
    assert info.iterations <= np.log(2 * 1e2 / 1e-10) / np.log(1 / gamma) + 1


def test_the_double_product_counts_two_products_an_iteration(rng):
    a, M = preconditioned(rng, 0.1)
    info = linalg.double_product(lambda v: a @ v, rng.standard_normal(40), preconditioner=M, rtol=1e-6)[1]
    assert info.products == 2 * info.iterations


def test_a_failed_factorisation_says_which_how_large_and_what_to_change(be):
    words = r"Gram matrix \(2 x 2, float.*damping 0.5 .* eigenvalue is -1; raise the damping above 1"
    with pytest.raises(linalg.FactorizationError, match=words):
        linalg.damped_cholesky(be.array([[1.0, 2.0], [2.0, 1.0]]), 0.5, "Gram matrix")


def test_sketch_factor_falls_back_to_qr_where_rows_are_at_hand(be, rng):
    rows = be.array(rng.standard_normal((6, 4)))  # rank 4: the Gram matrix is singular
    gram = rows @ be.xp.matrix_transpose(rows)
    indefinite = gram - be.eps * 1e3 * be.xp.eye(6, dtype=be.dtype, device=be.device)
    R, how = linalg.sketch_factor(indefinite, 1e-3 * be.eps, rows)
    assert how == "qr"
    np.testing.assert_allclose(be.numpy(be.xp.matrix_transpose(R) @ R), be.numpy(gram), atol=be.tol(1e-12))


def test_sketch_factor_falls_back_to_a_larger_shift(be, rng):
    rows = be.array(rng.standard_normal((6, 4)))
    gram = rows @ be.xp.matrix_transpose(rows) - be.eps * 1e2 * be.xp.eye(6, dtype=be.dtype, device=be.device)
    assert linalg.sketch_factor(gram, 0.0)[1].startswith("cholesky, shift")


@pytest.mark.parametrize("below", [1e-12, 1e-10])
def test_the_larger_shift_is_at_most_ten_times_what_is_needed(rng, below):
    gram = symmetric(rng, [-below, 1.0, 2.0, 3.0])
    R, how = linalg.sketch_factor(gram, 0.0)
    shift = float(how.removeprefix("cholesky, shift "))
    assert below < shift <= 10 * below
    np.testing.assert_allclose(R.T @ R, gram + shift * np.eye(4), atol=0.1 * shift)


def test_operators_pass_the_dot_test(be, rng):
    A = linalg.DenseOperator(be.array(rng.standard_normal((5, 8))))
    assert linalg.dot_test(A, 0, be.like) < be.tol(1e-14)


def test_the_dot_test_catches_a_wrong_adjoint(be, rng):
    class Wrong(linalg.DenseOperator):
        def rmatvec(self, u):
            return 1.001 * super().rmatvec(u)

    A = rng.standard_normal((5, 8))
    found = linalg.dot_test(Wrong(be.array(A)), 0, be.like)
    assert 1e-5 < found <= 1e-3
    np.testing.assert_allclose(linalg.dot_test(Wrong(be.array(1024 * A)), 0, be.like), found, rtol=1e-3)  # relative to A


def test_extremes_of_a_tridiagonal_matrix():
    assert _array.tridiagonal_extremes([2.0, 2.0], [1.0]) == pytest.approx((1.0, 3.0))
