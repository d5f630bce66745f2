"""Kronecker-factored solves against brute force: how the damping is shared decides what is solved."""

import pathlib

import numpy as np
import pytest

from nearlin import _array, linalg
from nearlin.complexity import flops_of

STORED = np.load(pathlib.Path(__file__).parents[1] / "oracles" / "derived_blocks_and_kfac.npz")
LAMBDA = float(STORED["lam"])


@pytest.fixture
def stored(be):
    """A, G and the gradient of the stored case."""
    return tuple(be.array(STORED[name]) for name in ("kfac_A", "kfac_G", "grad"))


def semidefinite(rng, n, condition=1e3):
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    return (q * np.geomspace(1 / condition, 1, n)) @ q.T


@pytest.fixture
def factors(rng):
    """A (6, 6), G (4, 4) and M (4, 6), far from balanced."""
    return 30 * semidefinite(rng, 6), semidefinite(rng, 4), rng.standard_normal((4, 6))


def agree(be, got, want):
    np.testing.assert_allclose(be.numpy(got), want, rtol=be.tol(1e-11), atol=be.tol(1e-12))


# ----------------------------------------------------------------------------------------------------------- factored damping


@pytest.mark.parametrize(("pi", "name"), [(False, "kfac_dir_nopi"), (True, "kfac_dir_pi")])
def test_stored_directions_are_met(be, stored, pi, name):
    A, G, M = stored
    inverse = linalg.damped_factors(A, G, LAMBDA, pi=pi)
    agree(be, inverse(M), STORED[name])
    assert inverse.pi == (pytest.approx(float(STORED["kfac_pi"]), rel=be.tol(1e-14)) if pi else 1.0)
    assert (inverse.notes, inverse.kept) == ((), 0)


@pytest.mark.parametrize("t", [1e-3, 0.5, 40.0])
def test_with_pi_the_split_of_the_product_does_not_matter(factors, t):
    A, G, M = factors
    want = linalg.damped_factors(A, G, 0.1, pi=True)(M)
    np.testing.assert_allclose(linalg.damped_factors(t * A, G / t, 0.1, pi=True)(M), want, rtol=1e-10)


@pytest.mark.parametrize("t", [1e-3, 0.5, 40.0])
def test_without_pi_it_does(factors, t):
    A, G, M = factors
    want = linalg.damped_factors(A, G, 0.1)(M)
    assert np.abs(linalg.damped_factors(t * A, G / t, 0.1)(M) - want).max() > 0.05 * np.abs(want).max()


def test_the_balanced_factors_have_equal_mean_eigenvalues(factors):
    A, G, _ = factors
    pi = linalg.trace_balance(A, G)
    assert np.trace(A) / 6 / pi == pytest.approx(np.trace(G) / 4 * pi)


@pytest.mark.parametrize("broken", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.full((3, 3), np.inf), -np.eye(3)])
def test_a_trace_that_is_not_positive_leaves_pi_at_one(be, broken):
    assert linalg.trace_balance(be.array(broken), be.array(4 * np.eye(2))) == 1.0
    assert linalg.trace_balance(be.array(4 * np.eye(2)), be.array(broken)) == 1.0


def test_a_dead_layer_is_damped_by_the_root_alone(be):
    inverse = linalg.damped_factors(be.array(np.eye(3)), be.array(np.zeros((2, 2))), 0.04, pi=True)
    agree(be, inverse.G, np.eye(2) / 0.2)
    agree(be, inverse.A, np.eye(3) / 1.2)


def test_a_factor_with_nan_keeps_its_previous_inverse_and_says_so(be, stored):
    A, G, _ = stored
    old = linalg.damped_factors(A, G, LAMBDA)
    new = linalg.damped_factors(2.0 * A, G * float("nan"), LAMBDA, pi=True, previous=old)
    assert np.array_equal(be.numpy(new.G), be.numpy(old.G))
    agree(be, new.A, np.linalg.inv(2 * STORED["kfac_A"] + np.sqrt(LAMBDA) * np.eye(5)))
    assert (new.notes, new.kept) == (("holding NaN or Inf, previous inverse kept: output factor",), 1)


def test_a_factor_with_nan_and_nothing_to_keep_is_an_error(be, stored):
    A, G, _ = stored
    with pytest.raises(linalg.FactorizationError, match=r"input factor \(5 x 5\) holds NaN or Inf"):
        linalg.damped_factors(A * float("nan"), G, LAMBDA)


def test_a_direction_costs_two_products(factors):
    A, G, M = factors
    assert flops_of(lambda A, G, M: linalg.KroneckerInverse(A, G)(M), A, G, M) == 2 * 4 * 4 * 6 + 2 * 4 * 6 * 6


def test_float32_stays_float32(be, stored):
    A, G, M = (be.xp.astype(a, be.xp.float32) for a in stored)
    basis = linalg.eigenbasis(A, G)
    for direction in (linalg.damped_factors(A, G, LAMBDA, pi=True)(M), basis.solve(M, LAMBDA)):
        assert direction.dtype == be.xp.float32


# -------------------------------------------------------------------------------------------------------------- exact damping


def test_the_stored_exactly_damped_direction_is_met(be, stored):
    A, G, M = stored
    agree(be, linalg.eigenbasis(A, G).solve(M, LAMBDA), STORED["kfac_dir_exactdamping"])


def test_exact_damping_solves_with_the_damped_product(be, factors):
    A, G, M = factors
    got = linalg.eigenbasis(be.array(A), be.array(G)).solve(be.array(M), 0.01)
    want = np.linalg.solve(np.kron(G, A) + 0.01 * np.eye(24), M.reshape(24)).reshape(4, 6)
    np.testing.assert_allclose(be.numpy(got), want, atol=be.tol(1e-11) * np.abs(want).max())
    shared = linalg.damped_factors(A, G, 0.01, pi=True)(M)
    assert np.abs(shared - want).max() > 0.01 * np.abs(want).max()


def test_rescaling_meets_the_stored_moments_and_direction(be, stored):
    A, G, M = stored
    basis = linalg.eigenbasis(A, G)
    ones = np.ones((7, 1))
    S = basis.second_moments(be.array(np.hstack([STORED["a"], ones])), be.array(STORED["g"]))
    np.testing.assert_allclose(be.numpy(S), STORED["ekfac_scale"], atol=be.tol(1e-12))
    agree(be, basis.solve(M, LAMBDA, S), STORED["ekfac_dir"])


def test_second_moments_are_those_of_the_gradients_of_samples(be, rng):
    a, g = rng.standard_normal((9, 5)), rng.standard_normal((9, 3))
    basis = linalg.eigenbasis(a.T @ a / 9, g.T @ g / 9)
    want = np.mean([(basis.UG.T @ np.outer(g[i], a[i]) @ basis.UA) ** 2 for i in range(9)], axis=0)
    got = linalg.KroneckerEigenbasis(*map(be.array, basis)).second_moments(be.array(a), be.array(g))
    np.testing.assert_allclose(be.numpy(got), want, rtol=be.tol(1e-13))


def test_a_rescaled_direction_of_independent_factors_is_the_exact_one(factors):
    A, G, M = factors
    basis = linalg.eigenbasis(A, G)
    np.testing.assert_array_equal(basis.solve(M, 0.1, basis.scaling()), basis.solve(M, 0.1))


@pytest.mark.parametrize(
    ("A", "G", "words"),
    [
        (np.ones((2, 3)), np.eye(2), r"A has shape \(2, 3\); expected a square matrix"),
        (np.eye(2), np.full((2, 2), np.nan), "G holds 4 NaN or Inf"),
        (np.eye(2), np.ones(3), r"G has shape \(3,\); expected 2 dimension"),
    ],
)
def test_bad_factors_are_named(A, G, words):
    with pytest.raises(ValueError, match=words):
        linalg.eigenbasis(A, G)


def test_a_damping_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"damping is -1\.0; expected a finite number, at least 0"):
        linalg.damped_factors(np.eye(2), np.eye(2), -1.0)


# ------------------------------------------------------------------------------------------------------------------- float32


@pytest.mark.parametrize("damping", [1e-5, 1e-2, 1.0])
def test_a_large_factor_in_float32_is_solved_or_its_error_is_told(be, rng, damping):
    """||A|| = 1e4, as where it sums over positions: eigenvalues in float32 would be off by 1e-3."""
    A, G = 1e4 * semidefinite(rng, 30, 1e8), semidefinite(rng, 6)
    A, G, M = (a.astype("float32") for a in (A, G, rng.standard_normal((6, 30))))
    basis = linalg.eigenbasis(*(be.array(a, "float32") for a in (A, G)))
    found = be.numpy(basis.solve(be.array(M, "float32"), damping))
    want = np.linalg.solve(np.kron(G.astype(float), A.astype(float)) + damping * np.eye(180), M.astype(float).reshape(180))
    wrong = np.linalg.norm(found.reshape(180) - want) / np.linalg.norm(want)
    assert wrong < 3 * basis.error(damping)
    if be.name.endswith("no_float64"):
        assert basis.error(damping) > 5e-3
    else:
        assert max(wrong, basis.error(damping)) < 1e-5


def test_the_error_of_a_basis_is_its_rounding_over_the_least_eigenvalue():
    basis = linalg.KroneckerEigenbasis(np.eye(4), np.array([0.5, 1, 2, 8]), np.eye(9), np.linspace(1, 3, 9), 1e-6)
    assert basis.error(0.25) == pytest.approx((2 + 3) * 1e-6 * 24 / 0.75)
    assert basis.error(1e13) == 2 * np.finfo("float64").eps
    assert basis._replace(sA=np.array([0.0, 1, 2, 8])).error(0.0) == np.inf


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_basis_says_in_which_precision_it_was_found(be, rng, dtype):
    widest = float(be.xp.finfo(_array.widest(be.like)).eps)
    if dtype == "float64" and widest > 1e-10:
        pytest.skip("no float64")
    basis = linalg.eigenbasis(*(be.array(semidefinite(rng, n), dtype) for n in (5, 3)))
    assert basis.eps == widest
    assert {str(a.dtype).split(".")[-1] for a in basis[:4]} == {dtype}
