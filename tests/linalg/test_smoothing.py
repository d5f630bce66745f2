"""Residual smoothing of conjugate gradients: the least residuals of the Krylov spaces, by dense least squares."""

import numpy as np
import pytest

import nearlin as nl
from nearlin.complexity import count, wrap
from nearlin.linalg import Smoothing, cg


def system(rng, n=40, low=1e-4):
    """A with eigenvalues from ``low`` to 1, and b with more along the larger ones."""
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    values = np.geomspace(low, 1, n)
    return (Q * values) @ Q.T, Q @ (values**0.25 * rng.standard_normal(n))


def smoothed(A, b, k, **options):
    """Those of k iterations."""
    seen = Smoothing(b, 0.0)
    x, info = cg(lambda v: A @ v, b, rtol=0.0, maxiter=k, stop=seen, certify=False, **options)
    assert seen.steps == info.iterations == k
    return x, seen


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_without_a_preconditioner_they_have_the_least_residual_of_the_krylov_space(be, k):
    if be.eps > 1e-10:
        pytest.skip("needs float64")
    A, b = system(np.random.default_rng(0))
    vectors = [b]
    for _ in range(k - 1):
        vectors.append(A @ vectors[-1] / np.linalg.norm(vectors[-1]))
    basis = np.linalg.qr(np.stack(vectors, axis=1))[0]
    want = basis @ np.linalg.lstsq(A @ basis, b, rcond=None)[0]
    np.testing.assert_allclose(be.numpy(smoothed(be.array(A), be.array(b), k)[1].x), want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("preconditioner", [nl.linalg.identity, lambda r: np.linspace(0.1, 3, 40) * r], ids=["none", "diagonal"])
def test_the_residual_never_grows_and_is_no_more_than_that_of_cg(preconditioner):
    A, b = system(np.random.default_rng(1))
    before = np.linalg.norm(b)
    for k in range(1, 20):
        x, seen = smoothed(A, b, k, preconditioner=preconditioner)
        left = np.linalg.norm(b - A @ seen.x)
        assert left <= min(before, np.linalg.norm(b - A @ x)) * (1 + 1e-9)
        before = left


def test_it_ends_a_solve_at_its_tolerance_long_before_cg_gets_there():
    A, b = system(np.random.default_rng(2), n=200)
    seen = Smoothing(b, 0.1)
    info = cg(lambda v: A @ v, b, rtol=0.1, stop=seen, certify=False)[1]
    plain = cg(lambda v: A @ v, b, rtol=0.1)[1]
    left = np.linalg.norm(b - A @ seen.x) / np.linalg.norm(b)
    assert info.reason == plain.reason == "converged"
    assert left <= 0.1 * (1 + 1e-9)
    assert 2 * info.iterations < plain.iterations


def test_images_of_the_iterates_become_those_of_the_smoothed_ones(rng):
    A, b = system(rng)
    B, sums, last = rng.standard_normal((3, 40)), [np.zeros(3)], []

    def product(v):
        last[:] = [v]
        return A @ v

    def add(alpha):
        sums[0] = sums[0] + alpha * (B @ last[0])

    seen = Smoothing(b, 0.0, lambda: (sums[0],))
    cg(product, b, rtol=0.0, maxiter=7, on_step=add, stop=seen, certify=False)
    np.testing.assert_allclose(seen.images[0], B @ seen.x, rtol=1e-9)
    assert not np.allclose(seen.images[0], sums[0], rtol=1e-2)


def test_where_residuals_overflow_or_nothing_changes_it_has_the_iterates_themselves():
    r = np.asarray([1e200, 1.0])
    seen = Smoothing(r, 0.1)
    seen(np.asarray([2.0, 3.0]), r)
    np.testing.assert_array_equal(seen.x, [2.0, 3.0])
    seen = Smoothing(np.asarray([1.0, 1.0]), 0.1)
    seen(np.asarray([2.0, 3.0]), np.asarray([1e200, 1.0]))
    np.testing.assert_array_equal(seen.x, [2.0, 3.0])


def test_its_cost_is_that_of_its_head(rng):
    n, k = 100, 30
    b, x, r, image = map(wrap, (*rng.standard_normal((3, n)), rng.standard_normal(k)))
    seen = Smoothing(b, 0.0, lambda: (image,))
    seen(x, r)
    with count() as tally:
        seen(x + 1, r / 2)
    beside = 2 * n  # the arguments
    assert abs(tally.flops.total() - beside - 12 * n - 3 * k) < 5
