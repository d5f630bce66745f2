"""The second level for near-duplicates against dense NumPy: groups, the inverse, its determinant, and when it is taken."""

import math

import numpy as np
import pytest

from nearlin import _array
from nearlin.complexity.claims import data
from nearlin.linalg import FactorizationError, PivotedCholesky, cg, nearby_groups, pivoted_blocks, second_level
from nearlin.nn import KernelEntries


def factored(x, rank):
    return PivotedCholesky(KernelEntries(x), 0).grow(rank)


def dense(factor, groups, shift):
    """F Fᵀ + blockdiag(A - F Fᵀ) + μ I in float64, with A from the source."""
    F = np.asarray(_array.to_numpy(factor.F), dtype=float)
    everything = _array.asarray(np.arange(len(F)), like=factor.F, dtype="int64")
    left = np.asarray(_array.to_numpy(factor.source.entries(everything, everything)), dtype=float) - F @ F.T
    np.fill_diagonal(left, factor.remainder)
    within = np.zeros_like(left)
    for group in groups:
        within[np.ix_(group, group)] = left[np.ix_(group, group)]
    return F @ F.T + (within + within.T) / 2 + shift * np.eye(len(F))


def clusters(n, d, spread=1e-2):
    return np.repeat(data.sphere(n // 8, d, 0), 8, axis=0) + spread * data.sphere(n, d, 1)


# -------------------------------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize("n", [5, 64, 65, 1000])
def test_groups_hold_every_row_once(be, n):
    groups = nearby_groups(be.array(data.sphere(n, 3, 0)), 0)
    assert sorted(np.concatenate(groups).tolist()) == list(range(n))
    assert max(map(len, groups)) <= 64
    assert len(groups) == 1 if n <= 64 else min(map(len, groups)) > 16
    assert all(np.all(np.diff(group) > 0) for group in groups)


def test_clusters_stay_whole():
    groups = nearby_groups(clusters(800, 16), 0)
    home = np.empty(800, dtype=int)
    for i, group in enumerate(groups):
        home[group] = i
    cut = [len(set(cluster)) > 1 for cluster in home.reshape(100, 8).tolist()]
    assert sum(cut) == 0


def test_equal_rows_are_cut_all_the_same():
    assert sorted(map(len, nearby_groups(np.ones((200, 2)), 0, size=50)))[-1] <= 50


# --------------------------------------------------------------------------------------------------------------- the inverse


def test_it_is_the_inverse(be, rng):
    """Groups of several sizes, in blocks and at once."""
    x, r, damping = data.near_duplicates(90, 6, 0, 1e-1), rng.standard_normal(90), 1e-3
    factor, groups = factored(be.array(x), 20), nearby_groups(x, 0, size=20)
    assert len(set(map(len, groups))) > 1
    P = pivoted_blocks(factor, damping, groups)
    M = dense(factor, groups, damping)
    np.testing.assert_allclose(be.numpy(P(be.array(r))), np.linalg.solve(M, r), rtol=0, atol=be.tol(1e-10))
    assert P.logdet() == pytest.approx(np.linalg.slogdet(M)[1], abs=be.tol(1e-9))
    assert (P.rank, P.shift) == (20, damping)
    F = be.numpy(factor.F).astype(float)
    assert pivoted_blocks(factor, 1e-30, groups).shift == pytest.approx(32 * be.eps * np.linalg.norm(F, 2) ** 2, rel=0.05, abs=0)


def test_one_group_of_all_rows_is_the_matrix(rng):
    x, r = data.sphere(40, 4, 0), rng.standard_normal(40)
    P = pivoted_blocks(factored(x, 10), 0.1, [np.arange(40)])
    np.testing.assert_allclose(P(r), np.linalg.solve(data.limit_kernel(x) + 0.1 * np.eye(40), r), atol=1e-8)


def test_blocks_of_groups_are_the_same(monkeypatch):
    x = data.near_duplicates(200, 6, 0, 1e-1)
    factor, groups, r = factored(x, 20), nearby_groups(x, 0), np.ones(200)
    whole = pivoted_blocks(factor, 1e-3, groups)(r)
    monkeypatch.setattr(_array, "block_length", lambda row_bytes, like: 1)
    np.testing.assert_allclose(pivoted_blocks(factor, 1e-3, groups)(r), whole, atol=1e-9)


def test_without_columns_it_is_the_blocks():
    zeros = np.zeros((10, 2))
    factor = factored(zeros, 4)
    P = pivoted_blocks(factor, 0.5, nearby_groups(zeros, 0, size=4))
    assert factor.rank == 0
    np.testing.assert_allclose(P(np.ones(10)), 2.0)
    assert P.logdet() == pytest.approx(10 * math.log(0.5))


# ------------------------------------------------------------------------------------------------------------ when it is taken


def iterations(x, P, damping):
    A, b = data.limit_kernel(x), data.labels(len(x), 1)
    return cg(lambda v: A @ v + damping * v, b, rtol=1 / 6, preconditioner=P)[1].iterations


NEAR = {"clusters": lambda: clusters(512, 16), "near-duplicates": lambda: data.near_duplicates(512, 16, 0, 1e-2)}
FAR = {"sphere": lambda: data.sphere(512, 16, 0), "offset": lambda: data.offset(512, 16, 0)}


@pytest.mark.parametrize("family", [*NEAR, *FAR])
def test_near_duplicates_take_it_and_smooth_data_do_not(family):
    x = (NEAR | FAR)[family]()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    damping = 5e-6
    flat = factored(x, 32).preconditioner(damping)
    P = second_level(flat, nearby_groups(x, 0))
    assert (P is not flat) == (family in NEAR)
    if family in NEAR:
        assert 2 * iterations(x, P, damping) <= iterations(x, flat, damping)


@pytest.mark.parametrize(("spread", "taken"), [(0.29, True), (0.42, False)])
def test_it_is_worth_it_from_seven_tenths_of_the_log_of_the_determinant_a_row_on(spread, taken):
    n, damping = 128, 5e-6
    x = clusters(n, 16, spread)
    flat, groups = factored(x, n // 16).preconditioner(damping), nearby_groups(x, 0, size=16)
    F, log = flat.factor.F, lambda M: np.linalg.slogdet(M)[1]
    gain = (log(F @ F.T + flat.shift * np.eye(n)) - log(dense(flat.factor, groups, damping))) / n
    assert abs(gain - 0.7) < 0.2
    assert (gain > 0.7) == (second_level(flat, groups) is not flat) == taken


# ------------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    "groups", [[], [np.arange(39)], [np.arange(40), np.asarray([3])], [np.zeros(40, dtype=int)], [np.arange(40) + 1]]
)
def test_groups_that_are_none_are_refused(groups):
    with pytest.raises(ValueError, match=r"^groups hold \d+ rows; expected each of the 40 rows of the matrix once$"):
        pivoted_blocks(factored(data.sphere(40, 4, 0), 10), 0.1, groups)


@pytest.mark.parametrize("damping", [0.0, -1.0, math.nan])
def test_a_damping_is_positive(damping):
    with pytest.raises(ValueError, match=r"^damping is"):
        pivoted_blocks(factored(data.sphere(40, 4, 0), 10), damping, [np.arange(40)])


def test_a_group_of_one_is_not_asked_for():
    with pytest.raises(ValueError, match=r"^size is 1; expected an integer of at least 2"):
        nearby_groups(np.ones((3, 1)), 0, size=1)


def test_another_matrix_in_the_blocks_is_noticed_where_it_is_no_remainder():
    """F of one source, blocks of another: what is left need not be definite."""
    x = data.sphere(40, 4, 0)
    factor = factored(x, 30)
    object.__setattr__(factor.source, "x", factor.source.x * np.where(np.arange(4) < 2, -3.0, 1.0))
    with pytest.raises(FactorizationError, match=r"^group 0 .* is not positive definite"):
        pivoted_blocks(factor, 1e-9, [np.arange(40)])


def test_several_columns_are_solved_for_as_each_of_them(be):
    """r (n c,) in order (row, column), by both levels, and without any columns of A."""
    x = be.array(clusters(64, 3))
    flat, empty = factored(x, 24).preconditioner(1e-2), PivotedCholesky(KernelEntries(x), 0)
    groups = nearby_groups(x, 0, size=16)
    r = np.random.default_rng(0).standard_normal((64, 3))
    for P in (flat, pivoted_blocks(flat.factor, 1e-2, groups), empty.preconditioner(1.0), pivoted_blocks(empty, 1.0, groups)):
        want = np.stack([be.numpy(P(be.array(r[:, k].copy()))) for k in range(3)], axis=1)
        np.testing.assert_allclose(be.numpy(P(be.array(r.reshape(-1)))), want.reshape(-1), rtol=be.tol(1e-9), atol=be.tol(1e-9))
