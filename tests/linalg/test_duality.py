"""Duality maps against their definition, bounds that are never broken, and orthogonalisation without an SVD."""

import importlib
import itertools
import math

import numpy as np
import pytest

from nearlin import _array, linalg
from nearlin.complexity import count, flops_of, wrap

QS = (1, 2, math.inf)


def cases():
    """Full rank, rank one, rank deficient, zero rows and columns, vectors, one entry, and equal entries."""
    g = np.random.default_rng(7)
    zeros = g.standard_normal((5, 7))
    zeros[[1, 3]] = 0
    return {
        "tall": g.standard_normal((9, 4)) * np.geomspace(1, 1e-3, 4),
        "wide": g.standard_normal((4, 11)),
        "rank one": np.outer(g.standard_normal(6), g.standard_normal(5)),
        "rank two of six": g.standard_normal((6, 2)) @ g.standard_normal((2, 8)),
        "zero rows": zeros,
        "zero columns": zeros.T.copy(),
        "column": g.standard_normal((6, 1)),
        "row": g.standard_normal((1, 6)),
        "one entry": np.array([[-3.0]]),
        "equal entries": np.full((3, 4), -2.0),
    }


CASES = cases()


@pytest.fixture(params=CASES)
def G(request):
    return CASES[request.param]


def norm_of(U, q):
    return np.linalg.norm(U, {1: 1, 2: 2, math.inf: np.inf}[q])


def dual_of(G, q):
    return {1: np.abs(G).max(axis=0).sum(), 2: np.linalg.norm(G, "nuc"), math.inf: np.abs(G).max(axis=1).sum()}[q]


# ------------------------------------------------------------------------------------------------------- norms and maps


@pytest.mark.parametrize("q", QS)
def test_the_duality_map_has_the_norm_and_the_product_that_define_it(be, G, q):
    rho, dual = linalg.duality_map(be.array(G), q)
    rho, tol = be.numpy(rho), be.tol(1e-13)
    assert dual == pytest.approx(dual_of(G, q), rel=tol)
    assert np.sum(G * rho) == pytest.approx(dual**2, rel=tol)
    assert norm_of(rho, q) == pytest.approx(dual, rel=tol)


@pytest.mark.parametrize("q", QS)
def test_norms_are_those_of_the_definition(be, G, q):
    assert linalg.operator_norm(be.array(G), q) == pytest.approx(norm_of(G, q), rel=be.tol(1e-13))
    assert linalg.dual_norm(be.array(G), q) == pytest.approx(dual_of(G, q), rel=be.tol(1e-13))


@pytest.mark.parametrize("q", QS)
def test_no_matrix_of_norm_one_beats_the_dual_norm(rng, G, q):
    dual = linalg.dual_norm(G, q)
    for U in rng.standard_normal((300, *G.shape)):
        assert np.sum(G * U) / norm_of(U, q) <= dual * (1 + 1e-13)


def test_the_map_of_one_norm_is_none_of_another():
    G = CASES["wide"]
    rho, dual = linalg.duality_map(G, 2)
    assert norm_of(rho, math.inf) > 1.2 * dual
    assert abs(np.sum(G * rho) - linalg.dual_norm(G, math.inf) ** 2) > 1e-3 * dual**2


@pytest.mark.parametrize(("q", "entries"), [(1, (1, 0)), (math.inf, (0, 1))])
def test_one_entry_of_a_row_or_a_column_is_chosen(be, q, entries):
    rho = be.numpy(linalg.duality_map(be.array(CASES["zero rows"]), q)[0])
    assert np.count_nonzero(rho, axis=entries[1]).max() == 1
    assert np.count_nonzero(rho) == (7 if q == 1 else 3)


def test_of_equal_entries_the_first_is_chosen(be):
    rho = be.numpy(linalg.duality_map(be.array(np.full((2, 3), -1.0)), math.inf)[0])
    np.testing.assert_array_equal(rho, [[-2, 0, 0], [-2, 0, 0]])
    rho = be.numpy(linalg.duality_map(be.array(np.full((2, 3), -1.0)), 1)[0])
    np.testing.assert_array_equal(rho, [[-3, -3, -3], [0, 0, 0]])


def test_singular_values_of_rounding_are_left_out(rng):
    """Rank two: all singular values of the map are equal or 0."""
    rho, dual = linalg.duality_map(CASES["rank two of six"], 2)
    values = np.linalg.svd(rho, compute_uv=False) / dual
    np.testing.assert_allclose(values, [1, 1, 0, 0, 0, 0], atol=1e-12)


def test_singular_values_that_are_left_out_are_no_part_of_the_dual_norm(be, rng):
    """Many of them, together a thousand times what rounding is: the map keeps its norm and its product."""
    n = 100
    s = np.array([1.0, *[0.7 * n * be.eps] * (n - 1)])
    P, Q = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    G = be.array(P * s @ Q)
    rho, dual = linalg.duality_map(G)
    rho, G = be.numpy(rho).astype(np.float64), be.numpy(G).astype(np.float64)
    assert np.sum(G * rho) == pytest.approx(dual**2, rel=500 * be.eps)
    assert norm_of(rho, 2) == pytest.approx(dual, rel=500 * be.eps)
    assert linalg.dual_norm(P * s @ Q) > 1 + 5_000 * be.eps


@pytest.mark.parametrize("q", QS)
def test_zero_is_mapped_to_zero(be, q):
    rho, dual = linalg.duality_map(be.array(np.zeros((3, 4))), q)
    assert (dual, np.count_nonzero(be.numpy(rho))) == (0.0, 0)


@pytest.mark.parametrize("q", QS)
def test_the_map_is_homogeneous(be, q):
    G = CASES["wide"]
    np.testing.assert_allclose(
        be.numpy(linalg.duality_map(be.array(-2.5 * G), q)[0]), -2.5 * linalg.duality_map(G, q)[0], atol=be.tol(1e-13)
    )


@pytest.mark.parametrize("q", QS)
def test_float32_stays_float32(be, q):
    G = be.array(CASES["wide"], "float32")
    assert linalg.duality_map(G, q)[0].dtype == be.xp.float32
    assert linalg.orthogonalize(G)[0].dtype == be.xp.float32


# ------------------------------------------------------------------------------------------------------------ bounds


@pytest.mark.parametrize("method", ["svd", "gram"])
def test_a_spectral_bound_is_never_below_and_not_far_above(be, G, method):
    exact, r = np.linalg.norm(G, 2), min(G.shape)
    bound = linalg.spectral_bound(be.array(G), method)
    assert exact <= bound <= exact * r ** (1 / 64) * (1 + 1e3 * be.eps)


def test_a_spectral_bound_holds_where_all_singular_values_are_equal(rng):
    Q = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    assert 1 <= linalg.spectral_bound(Q) <= 40 ** (1 / 64) * (1 + 1e-12)
    assert linalg.spectral_bound(np.eye(40)) == pytest.approx(1, rel=1e-12)


def test_more_squarings_come_closer(rng):
    W = rng.standard_normal((20, 30))
    over = [linalg.spectral_bound(W, squarings=k) / np.linalg.norm(W, 2) - 1 for k in range(6)]
    assert all(b < 0.7 * a for a, b in itertools.pairwise(over))
    assert 0 < over[5] < 0.02


@pytest.mark.parametrize("size", [1e-170, 1e-150, 1e150, 1e170])
def test_bounds_and_orthogonal_matrices_do_not_overflow(size):
    G = CASES["wide"]
    assert linalg.spectral_bound(size * G) == pytest.approx(size * linalg.spectral_bound(G), rel=1e-12, abs=0)
    np.testing.assert_allclose(linalg.orthogonalize(size * G).matrix, linalg.orthogonalize(G).matrix, atol=1e-12)


def test_a_spectral_bound_needs_no_svd():
    with count() as tally:
        linalg.spectral_bound(wrap(CASES["tall"]))
    assert not {"svd", "svdvals", "eigh", "eigvalsh"} & set(tally.calls)


# ------------------------------------------------------------------------------------------------------- Newton-Schulz


@pytest.mark.parametrize(("steps", "polish"), [(0, 0), (1, 0), (5, 0), (9, 0), (5, 1), (5, 2), (0, 3)])
def test_the_certificate_holds(be, G, steps, polish):
    O, alignment, bound = linalg.orthogonalize(be.array(G), steps, polish)
    O = be.numpy(O)
    assert np.linalg.norm(O, 2) <= bound <= 1.21 * (1 + 200 * be.eps)
    assert alignment == pytest.approx(np.sum(G * O), rel=be.tol(1e-12))
    assert 0 < alignment / bound <= np.linalg.norm(G, "nuc") * (1 + 100 * be.eps)


def test_the_quintic_step_never_exceeds_its_bound():
    x = np.linspace(0, 1.21, 200_001)
    a, b, c = importlib.import_module("nearlin.linalg.duality").QUINTIC
    assert 1.2 < (a * x + b * x**3 + c * x**5).max() < 1.2025
    assert (a * x + b * x**3 + c * x**5)[1:].min() > 0
    assert (1.5 * x - 0.5 * x**3).max() <= 1


def test_cubic_steps_converge_to_the_polar_factor(be, rng):
    U, V = (np.linalg.qr(rng.standard_normal((n, 6)))[0] for n in (9, 6))
    G = U * np.geomspace(1, 1e-2, 6) @ V.T
    O, alignment, _ = linalg.orthogonalize(be.array(G), 0, 25)
    np.testing.assert_allclose(be.numpy(O), U @ V.T, atol=be.tol(1e-12))
    assert alignment == pytest.approx(np.linalg.norm(G, "nuc"), rel=be.tol(1e-12))
    few = linalg.orthogonalize(G, 0, 8).matrix
    assert np.abs(few - U @ V.T).max() > 0.05


def test_singular_values_end_where_they_are_said_to(rng):
    values = np.linalg.svd(linalg.orthogonalize(rng.standard_normal((256, 64)), 5, 0).matrix, compute_uv=False)
    assert 0.6 < values.min() < values.max() < 1.21
    tiny = np.diag([1.0, 1e-6])
    assert 1e-5 < linalg.orthogonalize(tiny, 5, 0).matrix[1, 1] <= 485 * 1e-6  # grown, and still damped


def test_polish_gains_most_of_the_exact_decrease(rng):
    G = rng.standard_normal((128, 128))
    dual = linalg.dual_norm(G)

    def efficiency(steps, polish):
        _, alignment, bound = linalg.orthogonalize(G, steps, polish)
        return (alignment / bound / dual) ** 2

    assert 0.4 < efficiency(5, 0) < 0.65
    assert efficiency(5, 2) > 0.95


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_vectors_are_divided_by_their_length(be, rng, shape):
    G = rng.standard_normal(shape)
    O, alignment, bound = linalg.orthogonalize(be.array(G), 5, 0)
    np.testing.assert_allclose(be.numpy(O), G / np.linalg.norm(G), atol=be.tol(1e-14))
    assert bound == pytest.approx(1, abs=100 * be.eps)
    assert alignment == pytest.approx(np.linalg.norm(G))


def test_nothing_is_orthogonal_to_zero(be):
    O, alignment, bound = linalg.orthogonalize(be.array(np.zeros((3, 4))))
    assert (np.count_nonzero(be.numpy(O)), alignment) == (0, 0.0)
    assert bound >= 1


# ------------------------------------------------------------------------------------------------------------------ costs


@pytest.mark.parametrize(("m", "n"), [(5, 8), (8, 5)])
def test_newton_schulz_costs_what_is_stated(rng, m, n):
    G, r, k = rng.standard_normal((m, n)), min(m, n), max(m, n)

    def flops(steps, polish):
        return flops_of(linalg.orthogonalize, G, steps, polish)

    assert flops(3, 0) - flops(2, 0) == 4 * k * r * r + 2 * r**3 + 3 * r * r + 2 * m * n
    assert flops(2, 1) - flops(2, 0) == 4 * k * r * r + 3 * m * n


@pytest.mark.parametrize("q", [1, math.inf])
def test_norms_by_entries_cost_what_is_stated(rng, q):
    G = rng.standard_normal((6, 9))
    assert flops_of(linalg.operator_norm, G, q) == 2 * 54 - 1
    assert flops_of(linalg.dual_norm, G, q) == 2 * 54 - 1
    outputs = 9 if q == 1 else 6
    assert flops_of(linalg.duality_map, G, q) == 7 * 54 - outputs - 1


# --------------------------------------------------------------------------------------------------------------- bad input

FUNCTIONS = {
    "operator_norm": (linalg.operator_norm, "W"),
    "dual_norm": (linalg.dual_norm, "G"),
    "duality_map": (linalg.duality_map, "G"),
}


@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_and_inf_are_refused(be, name, value, q):
    function, called = FUNCTIONS[name]
    with pytest.raises(ValueError, match=f"{called} holds 1 NaN or Inf"):
        function(be.array([[1.0, value], [0.0, 2.0]]), q)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf_have_no_orthogonal_matrix_and_no_bound(be, value):
    G = be.array([[1.0, value], [0.0, 2.0]])
    with pytest.raises(ValueError, match="G holds 1 NaN or Inf"):
        linalg.orthogonalize(G)
    with pytest.raises(ValueError, match="W holds 1 NaN or Inf"):
        linalg.spectral_bound(G)


def test_a_norm_that_overflows_is_named():
    with pytest.raises(ValueError, match=r"norm of W, a float32 numpy array .* overflows"):
        linalg.operator_norm(np.full((2, 3), 3e38, dtype=np.float32), math.inf)


@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("function", [linalg.dual_norm, linalg.duality_map])
def test_a_dual_norm_that_overflows_is_named(function, q):
    with pytest.raises(ValueError, match=r"norm of G, a float64 numpy array .* overflows"):
        function(1e307 * np.eye(30), q)


def test_singular_values_that_do_not_converge_are_an_error(monkeypatch):
    def svd(a):
        raise _array.NotConverged("did not converge")

    monkeypatch.setattr(importlib.import_module("nearlin.linalg.duality"), "svd", svd)
    with pytest.raises(linalg.FactorizationError, match=r"singular values of G \(2 x 3\) do not converge"):
        linalg.duality_map(np.ones((2, 3)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: linalg.dual_norm(np.eye(2), 3), "q is 3; expected 1, 2 or inf"),
        (lambda: linalg.dual_norm(np.ones(3)), r"G has shape \(3,\); expected 2 dimension"),
        (lambda: linalg.spectral_bound(np.eye(2), "power"), "method is 'power'"),
        (lambda: linalg.spectral_bound(np.eye(2), squarings=-1), "squarings is -1"),
        (lambda: linalg.orthogonalize(np.eye(2), 1.5), "steps is 1.5; expected an integer of at least 0"),
        (lambda: linalg.orthogonalize(np.eye(2), 5, -1), "polish is -1"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
