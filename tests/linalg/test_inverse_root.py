"""Inverse roots: both methods against the definition and against stored roots, with certificates that do not lie."""

import importlib
import pathlib

import numpy as np
import pytest

from nearlin import _array, linalg
from nearlin.complexity import count, wrap

STORED = np.load(pathlib.Path(__file__).parents[1] / "oracles" / "tntrepo_coupled_newton.npz")
METHODS = ("eigh", "newton")


def semidefinite(rng, eigenvalues):
    q, _ = np.linalg.qr(rng.standard_normal((len(eigenvalues), len(eigenvalues))))
    return (q * np.asarray(eigenvalues)) @ q.T


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [1, 2, 4, 6])
@pytest.mark.parametrize("n", [3, 6])
def test_stored_roots_are_met(be, n, p, method):
    root, _ = linalg.inverse_root(be.array(STORED[f"M{n}"]), p, 0.01, method)
    want = STORED[f"M{n}_p{p}_eps0.01"]
    np.testing.assert_allclose(be.numpy(root), want, rtol=1e-6 + be.tol(1e-13), atol=(1e-6 + be.tol(1e-13)) * np.abs(want).max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [1, 2, 3, 4, 5, 6, 8])
def test_the_power_of_the_root_is_the_inverse(rng, p, method):
    a = semidefinite(rng, [0.0, 0.0, *np.geomspace(1e-2, 10, 10)])
    root, _ = linalg.inverse_root(a, p, 0.1, method)
    np.testing.assert_allclose(np.linalg.matrix_power(root, p) @ (a + 0.1 * np.eye(12)), np.eye(12), atol=1e-5)


def test_the_order_of_the_root_matters(rng):
    a = semidefinite(rng, np.geomspace(1e-2, 10, 10))
    root, _ = linalg.inverse_root(a, 4, 0.1)
    assert np.abs(np.linalg.matrix_power(root, 2) @ (a + 0.1 * np.eye(10)) - np.eye(10)).max() > 0.5


@pytest.mark.parametrize("method", METHODS)
def test_float32_stays_float32(be, rng, method):
    a = semidefinite(rng, np.geomspace(1e-3, 1, 20))
    root, info = linalg.inverse_root(be.array(a, "float32"), 4, 0.01, method)
    assert root.dtype == be.xp.float32
    assert info.reason in ("eigh", "converged")
    np.testing.assert_allclose(be.numpy(root), linalg.inverse_root(a, 4, 0.01)[0], atol=2e-5)


def test_a_stack_is_rooted_matrix_by_matrix(be, rng):
    stack = np.stack([semidefinite(rng, np.geomspace(1e-2, 1, 5)), semidefinite(rng, np.linspace(1, 3, 5))])
    root = be.numpy(linalg.inverse_root(be.array(stack), 2, 0.1)[0])
    for one, matrix in zip(root, stack, strict=True):
        np.testing.assert_allclose(one @ one @ (matrix + 0.1 * np.eye(5)), np.eye(5), atol=be.tol(1e-12))


@pytest.mark.parametrize("method", METHODS)
def test_a_matrix_of_one_entry_has_the_root_of_a_number(be, method):
    root, _ = linalg.inverse_root(be.array([[15.0]]), 4, 1.0, method)
    assert float(root[0, 0]) == pytest.approx(0.5, rel=be.tol(1e-15))


def test_eigenvalues_that_rounding_made_negative_count_as_zero(rng):
    a = semidefinite(rng, [-1e-3, 1.0, 4.0])
    root, _ = linalg.inverse_root(a, 2, 1e-4)
    assert np.linalg.eigvalsh(root)[-1] == pytest.approx(1e-4**-0.5)


# ------------------------------------------------------------------------------------------------------------ certificates


def test_newton_says_how_it_converged(rng):
    a = semidefinite(rng, np.geomspace(1e-3, 1, 15))
    root, info = linalg.inverse_root(a, 2, 1e-3, "newton")
    assert (info.reason, info.error <= 1e-6) == ("converged", True)
    assert 5 < info.iterations < 30
    assert np.abs(root @ root @ (a + 1e-3 * np.eye(15)) - np.eye(15)).max() < 1e-5


def test_newton_says_that_its_iterations_ran_out(rng):
    info = linalg.inverse_root(semidefinite(rng, np.geomspace(1e-6, 1, 15)), 2, 0.0, "newton", maxiter=3)[1]
    assert (info.reason, info.iterations) == ("maxiter", 3)
    assert info.error > 0.1


def test_newton_returns_the_root_before_the_error_grew(rng):
    """An indefinite matrix: the iteration has nothing to converge to."""
    a = semidefinite(rng, [-0.5, 1.0, 2.0])
    root, info = linalg.inverse_root(a, 2, 0.0, "newton")
    assert info.reason == "stalled"
    assert np.all(np.isfinite(root))
    assert np.array_equal(root, linalg.inverse_root(a, 2, 0.0, "newton", maxiter=info.iterations)[0])


def test_newton_ends_on_overflow_with_a_finite_root(rng):
    a = semidefinite(rng, [-1.0, 1e-3, 1e-3])
    root, info = linalg.inverse_root(a, 6, 0.0, "newton")
    assert info.reason == "stalled"
    assert np.all(np.isfinite(root))


@pytest.mark.parametrize(("p", "products"), [(1, 2), (2, 3), (3, 4), (4, 4), (6, 5), (8, 5)])
def test_newton_multiplies_as_often_as_stated(rng, p, products):
    a = wrap(semidefinite(rng, np.geomspace(1e-2, 1, 8)))
    with count() as tally:
        info = linalg.inverse_root(a, p, 0.1, "newton")[1]
    assert tally.flops["matmul"] == products * 2 * 8**3 * info.iterations + 8 * (p + 2) * 8**2  # the last of it the error


def test_eigenvalues_that_fail_in_float32_are_tried_in_float64(rng, monkeypatch):
    def eigh(a):
        if a.dtype == np.float32:
            raise _array.NotConverged("did not converge")
        return _array.eigh(a)

    monkeypatch.setattr(importlib.import_module("nearlin.linalg.inverse_root"), "eigh", eigh)
    a = semidefinite(rng, np.geomspace(1e-2, 1, 8)).astype(np.float32)
    root, _ = linalg.inverse_root(a, 2, 0.1)
    assert root.dtype == np.float32
    np.testing.assert_allclose(root @ root @ (a + np.float32(0.1) * np.eye(8, dtype=np.float32)), np.eye(8), atol=1e-5)


def test_eigenvalues_that_never_converge_are_an_error(monkeypatch):
    def eigh(a):
        raise _array.NotConverged("did not converge")

    monkeypatch.setattr(importlib.import_module("nearlin.linalg.inverse_root"), "eigh", eigh)
    with pytest.raises(linalg.FactorizationError, match=r"eigenvalues of factor \(2 x 2\) do not converge"):
        linalg.inverse_root(np.eye(2), 2, 0.1, name="factor")


# --------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf_are_refused(be, method, value):
    with pytest.raises(ValueError, match="factor holds 1 NaN or Inf"):
        linalg.inverse_root(be.array([[1.0, 0.0], [0.0, value]]), 2, 0.1, method, name="factor")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 3])
def test_a_singular_matrix_without_damping_is_refused(be, method, n):
    with pytest.raises(linalg.FactorizationError, match=rf"matrix \({n} x {n}\) with damping 0 is singular; raise the damping"):
        linalg.inverse_root(be.array(np.zeros((n, n))), 2, 0.0, method)


@pytest.mark.parametrize(
    ("matrix", "p", "damping", "method", "words"),
    [
        (np.eye(2), 2, 0.1, "svd", "method is 'svd'; expected 'eigh' or 'newton'"),
        (np.eye(2), 0, 0.1, "eigh", "p is 0; expected a positive number"),
        (np.eye(2), 1.5, 0.1, "newton", "p is 1.5; expected a positive integer"),
        (np.eye(2), 2, -0.1, "eigh", "damping is -0.1"),
        (np.ones((2, 3)), 2, 0.1, "eigh", r"matrix has shape \(2, 3\); expected a square matrix"),
        (np.ones((2, 3, 3)), 2, 0.1, "newton", r"matrix has shape \(2, 3, 3\); expected 2 dimension"),
    ],
)
def test_bad_input_is_named(matrix, p, damping, method, words):
    with pytest.raises(ValueError, match=words):
        linalg.inverse_root(matrix, p, damping, method)
