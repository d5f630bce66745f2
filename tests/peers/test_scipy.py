"""Solvers and transforms beside SciPy's."""

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.sparse.linalg

from nearlin import linalg


def system(n, cond, seed=0):
    """A symmetric positive definite matrix of the given condition, and a right-hand side."""
    draw = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(draw.standard_normal((n, n)))
    return (Q * np.geomspace(1, cond, n)) @ Q.T, draw.standard_normal(n)


@pytest.mark.parametrize("cond", [1e1, 1e3, 1e5])
def test_conjugate_gradients_take_as_many_iterations(cond):
    A, b = system(80, cond)
    seen = []
    theirs, _ = scipy.sparse.linalg.cg(A, b, rtol=1e-9, maxiter=5000, callback=seen.append)
    ours, info = linalg.cg(lambda v: A @ v, b, rtol=1e-9, maxiter=5000)
    assert abs(info.iterations - len(seen)) <= max(1, 0.05 * len(seen))
    assert np.linalg.norm(ours - theirs) <= 1e-7 * np.linalg.norm(theirs) * cond**0.5
    assert info.residual == pytest.approx(np.linalg.norm(b - A @ ours) / np.linalg.norm(b), rel=1e-6)


@pytest.mark.parametrize("n", [1, 2, 64, 128])
def test_the_hadamard_transform_is_scipys_matrix(n):
    x = np.random.default_rng(1).standard_normal((n, 3))
    np.testing.assert_allclose(linalg.fwht(x), scipy.linalg.hadamard(n) @ x, atol=1e-12)


@pytest.mark.parametrize("memory", [1, 3, 5])
def test_limited_memory_products_are_scipys(memory):
    draw = np.random.default_rng(2)
    A, _ = system(9, 30.0)
    pairs = linalg.LimitedMemory()
    for _ in range(6):
        s = draw.standard_normal(9)
        pairs = linalg.remember(pairs, s, A @ s, memory)[0]
    H = scipy.optimize.LbfgsInvHessProduct(pairs.S, pairs.Y)
    M = draw.standard_normal((9, 2))
    np.testing.assert_allclose(linalg.two_loop_product(pairs, M), H.todense() @ M, atol=1e-10)
    np.testing.assert_allclose(linalg.compact_product(pairs, M), H.todense() @ M, atol=1e-10)


@pytest.mark.parametrize("p", [1, 2, 4])
def test_inverse_roots_are_scipys_powers(p):
    A, _ = system(12, 1e3)
    want = scipy.linalg.fractional_matrix_power(A + 0.1 * np.eye(12), -1 / p)
    for root in ("eigh", "newton"):
        X, _ = linalg.inverse_root(A, p, 0.1, root)
        np.testing.assert_allclose(X, want, atol=1e-6)
