"""Gram matrices and products along one mode, against einsum."""

import numpy as np
import pytest

from nearlin import linalg
from nearlin.complexity import flops_of

SHAPES = [(4,), (1,), (3, 5), (1, 4), (4, 3, 2), (2, 1, 3), (2, 3, 4, 5)]
CASES = [(shape, mode) for shape in SHAPES for mode in range(len(shape))]
LETTERS = "abcd"


@pytest.mark.parametrize(("shape", "mode"), CASES)
def test_a_gram_matrix_contracts_all_axes_but_one(be, rng, shape, mode):
    T, axes = rng.standard_normal(shape), LETTERS[: len(shape)]
    want = np.einsum(f"{axes},{axes.replace(axes[mode], 'z')}->{axes[mode]}z", T, T)
    np.testing.assert_allclose(be.numpy(linalg.mode_gram(be.array(T), mode)), want, atol=be.tol(1e-13))


@pytest.mark.parametrize(("shape", "mode"), CASES)
def test_a_product_acts_on_one_axis(be, rng, shape, mode):
    T, axes = rng.standard_normal(shape), LETTERS[: len(shape)]
    X = rng.standard_normal((7, shape[mode]))
    want = np.einsum(f"z{axes[mode]},{axes}->{axes.replace(axes[mode], 'z')}", X, T)
    np.testing.assert_allclose(be.numpy(linalg.mode_product(be.array(T), be.array(X), mode)), want, atol=be.tol(1e-13))


def test_products_on_all_axes_are_the_kronecker_product(rng):
    T, matrices = rng.standard_normal((2, 3, 4)), [rng.standard_normal((n, n)) for n in (2, 3, 4)]
    want = np.kron(np.kron(*matrices[:2]), matrices[2]) @ T.reshape(-1)
    np.testing.assert_allclose(linalg.mode_products(T, matrices).reshape(-1), want, atol=1e-13)
    wrong = linalg.mode_products(T, [M.T for M in matrices]).reshape(-1)
    assert np.linalg.norm(wrong - want) > 0.1 * np.linalg.norm(want)


def test_mixing_adds_weighted_gram_matrices(be, rng):
    T = rng.standard_normal((3, 4))
    H = tuple(A @ A.T for A in (rng.standard_normal((3, 3)), rng.standard_normal((4, 4))))
    given = tuple(be.array(A) for A in H)
    got = linalg.mix_grams(given, be.array(T), 0.9, 0.1)
    for mixed, old, new in zip(got, H, (T @ T.T, T.T @ T), strict=True):
        np.testing.assert_allclose(be.numpy(mixed), 0.9 * old + 0.1 * new, atol=be.tol(1e-13))
    for A, old in zip(given, H, strict=True):
        np.testing.assert_array_equal(be.numpy(A), old.astype(be.numpy(A).dtype))


def test_mixing_into_nothing_is_the_gram_matrix_itself(rng):
    T = rng.standard_normal((3, 4))
    np.testing.assert_array_equal(linalg.mix_grams((), T, 0.0, 1.0)[1], T.T @ T)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_an_average_leaves_out_what_is_not_finite(rng, bad):
    T, H = rng.standard_normal((3, 4)), (np.eye(3), np.eye(4))
    mixed, finite = linalg.average_grams(H, T, 0.9, 0.1)
    assert finite
    assert all(np.array_equal(a, b) for a, b in zip(mixed, linalg.mix_grams(H, T, 0.9, 0.1), strict=True))
    T[1, 2] = bad
    with np.errstate(over="ignore", invalid="ignore"):
        assert linalg.average_grams(H, T, 0.9, 0.1) == (H, False)
        zeros, finite = linalg.average_grams((), T, 0.0, 1.0)
    assert not finite
    assert [np.abs(Z).max() for Z in zeros] == [0.0, 0.0]


@pytest.mark.parametrize("shape", [(5,), (3, 5), (4, 3, 2)])
def test_the_flops_are_those_of_the_docstring(rng, shape):
    T, N = rng.standard_normal(shape), int(np.prod(shape))
    for mode, size in enumerate(shape):
        assert flops_of(linalg.mode_gram, T, mode) == 2 * N * size
        assert flops_of(linalg.mode_product, T, np.eye(size), mode) == 2 * N * size
    grams = tuple(np.eye(size) for size in shape)
    assert flops_of(linalg.mix_grams, grams, T, 0.9, 0.1) == N + sum(2 * N * size + 2 * size**2 for size in shape)
