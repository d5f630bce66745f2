"""Low-rank curvature against dense matrices: the recursion, exactness below the rank, truncation, orthonormality, and cost."""

import math

import numpy as np
import pytest

from nearlin import _array
from nearlin._array import BackendError
from nearlin.complexity import count, wrap
from nearlin.linalg import Inverse, LowRank, lowrank, lowrank_solve, lowrank_step, lowrank_update
from nearlin.linalg.lowrank import THIN

DECAY, DAMPING = 0.8, 0.05


def vectors(rng, d, steps):
    """Vectors with a spread of scales over their entries, so that all eigenvalues differ."""
    return rng.standard_normal((steps, d)) * np.geomspace(3, 0.2, d)


def truncated(S, k):
    """The best approximation of rank k of a symmetric matrix, and the largest eigenvalue that it leaves out."""
    e, V = np.linalg.eigh(S)
    gone = len(e) - k
    kept = np.where(np.arange(len(e)) < gone, 0, e)
    return (V * kept) @ V.T, e[gone - 1] if gone else 0.0


def dense(curvature, be=None):
    U, sigma = (np.asarray(a if be is None else be.numpy(a), dtype=float) for a in curvature)
    return (U.T * sigma) @ U


def close(found, wanted, tol):
    assert np.abs(found - wanted).max() <= tol * max(np.abs(wanted).max(), 1e-300)


@pytest.mark.parametrize(("d", "rank"), [(23, 4), (23, 1), (40, THIN + 2), (4, 4), (3, 4), (1, 2), (6, 0)])
def test_the_recursion_is_that_of_dense_matrices(be, rng, d, rank):
    """S ← T_k(decay S + (1 - decay) h hᵀ) by eigenvalues of d x d matrices, and x by a dense solve."""
    S, made = np.zeros((d, d)), lowrank(d, rank, be.like)
    for h, v in zip(vectors(rng, d, 14), rng.standard_normal((14, d)), strict=True):
        S, gone = truncated(DECAY * S + (1 - DECAY) * np.outer(h, h), min(rank, d))
        step = lowrank_step(made, be.array(h), be.array(v), DECAY, Inverse(DAMPING))
        made, wanted = step.curvature, np.linalg.solve(DAMPING * np.eye(d) + S, v)
        close(dense(made, be), S, be.tol(1e-13))
        close(be.numpy(step.x), wanted, be.tol(1e-11))
        close(be.numpy(lowrank_solve(made, be.array(v), Inverse(DAMPING))), wanted, be.tol(1e-11))
        assert step.dropped == pytest.approx(gone, abs=be.tol(1e-13) * 10)
        assert step.finite


def test_up_to_the_rank_nothing_is_lost_and_beyond_it_something_is(rng):
    """t <= k vectors: S is the whole average. After that it is not, nor the best approximation of the whole."""
    d, rank = 12, 5
    S, made = np.zeros((d, d)), lowrank(d, rank, np.zeros(1))
    for t, h in enumerate(vectors(rng, d, 9), start=1):
        S = DECAY * S + (1 - DECAY) * np.outer(h, h)
        made = lowrank_update(made, h, DECAY).curvature
        if t <= rank:
            close(dense(made), S, 1e-13)
    assert np.abs(dense(made) - S).max() > 1e-3
    assert np.abs(dense(made) - truncated(S, rank)[0]).max() > 1e-3


def test_what_is_lost_is_bounded_by_what_was_dropped(rng):
    """0 <= G - S <= Σ decay^(t-s) dropped_s, as matrices."""
    d, bound = 15, 0.0
    G, made = np.zeros((d, d)), lowrank(d, 4, np.zeros(1))
    for h in vectors(rng, d, 30):
        G = DECAY * G + (1 - DECAY) * np.outer(h, h)
        step = lowrank_update(made, h, DECAY)
        made, bound = step.curvature, DECAY * bound + step.dropped
        lost = np.linalg.eigvalsh(G - dense(made))
        assert lost[0] > -1e-12
        assert lost[-1] < bound + 1e-12
    assert lost[-1] > 0.1 * bound


def test_steep_directions_survive_float32(rng):
    """σ/γ = 1e9, far above 1/eps of float32: σ and the step along its direction are right to rounding."""
    d, gamma = 40, 1e-8
    steep = np.zeros(d)
    steep[3] = math.sqrt(10.0)
    made = lowrank_update(lowrank(d, 4, np.zeros(1, np.float32)), steep.astype(np.float32), 0.0).curvature
    assert float(made.sigma[-1]) == pytest.approx(10.0, rel=1e-6)
    v = np.zeros(d, np.float32)
    v[3] = 1.0
    x = lowrank_solve(made, v, Inverse(gamma))
    assert abs(x[3]) <= 10 * np.finfo(np.float32).eps / gamma  # 1/γ where the direction is lost
    s = np.float32(10.0) / (np.float32(gamma) * (np.float32(gamma) + np.float32(10.0)))
    assert 1 - np.float32(gamma) * s == 0  # what an inverse in float32 keeps of it: nothing


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("share", [1e-4, 1.0])
def test_what_is_outside_of_the_rows_by_more_than_rounding_is_kept(rng, dtype, share):
    """One vector at weight 1: S = h hᵀ, though only a part of h lies outside of the span of the rows that there are."""
    h = np.concatenate([rng.standard_normal(3), share * rng.standard_normal(20)]).astype(dtype)
    found = dense(lowrank_update(lowrank(23, 3, h), h, 0.0, 1.0).curvature)
    close(found[3:, :3], np.outer(h, h)[3:, :3], 1e-2 if dtype == "float32" else 1e-9)
    close(found, np.outer(h, h), 10 * np.finfo(dtype).eps)


@pytest.mark.parametrize(("d", "gamma"), [(1, 1e-8), (2, 1e-5), (4, 1e-8)])
def test_a_curvature_of_full_rank_is_inverted_without_cancellation(rng, d, gamma):
    """float32, σ/γ > 1/eps: v/γ - U (...) would be rounding of v/γ; the step of the same S in float64 is the reference."""
    made, inverse = lowrank(d, 4, np.zeros(1, np.float32)), Inverse(gamma, scale=-2.0, bound=3.0)
    for _ in range(30):
        h, v = (a.astype(np.float32) for a in rng.standard_normal((2, d)) * [[10], [1]])
        step = lowrank_step(made, h, v, 0.9, inverse)
        made, S = step.curvature, dense(step.curvature)
    wanted = np.linalg.solve(gamma * np.eye(d) + S, v.astype(float))
    assert np.abs(wanted).max() < 3  # nothing is clipped
    for x in (step.x, lowrank_solve(made, v, inverse)):
        assert x.dtype == np.float32
        close(x, -2 * wanted, 1e-5)


KINDS = {
    "independent": lambda rng, t, a: rng.standard_normal(a.shape[1]),
    "of low rank": lambda rng, t, a: rng.standard_normal(3) @ a[:3],
    "repeated": lambda rng, t, a: a[0],
    "slowly drifting": lambda rng, t, a: a[0] * math.cos(1e-3 * t) + a[1] * math.sin(1e-3 * t),
}


@pytest.mark.parametrize("steps", [400, pytest.param(2000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_stay_orthonormal(rng, kind, steps):
    """In float32."""
    a = rng.standard_normal((3, 40))
    made, worst = lowrank(40, 4, np.zeros(1, np.float32)), 0.0
    for t in range(steps):
        made = lowrank_update(made, KINDS[kind](rng, t, a).astype(np.float32), 0.99).curvature
        if t % 100 == 99:
            U = made.U.astype(float)
            worst = max(worst, np.abs(U @ U.T - np.eye(4)).max())
    assert worst <= 1e-6


@pytest.mark.parametrize("size", [1e-23, 1e-20, 1e-17, 1e-12])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_stay_orthonormal_where_squares_underflow(rng, kind, size):
    """float32: squares of a tiny remainder have no digits; what they would say is left out."""
    a, made = rng.standard_normal((3, 40)), lowrank(40, 4, np.zeros(1, np.float32))
    for t in range(30):
        made = lowrank_update(made, (size * KINDS[kind](rng, t, a)).astype(np.float32), 0.9).curvature
        U = made.U.astype(float)
        np.testing.assert_allclose(U @ U.T, np.eye(4), atol=1e-6)
    assert (float(made.sigma[-1]) > 1e-24) == (size > 1e-13)


@pytest.mark.parametrize("kind", ["of low rank", "repeated"])
def test_sigma_is_never_negative_and_rounding_is_no_direction(rng, kind):
    """Vectors in a span of at most three dimensions: from the fourth on nothing is new, and nothing is dropped."""
    a, made = rng.standard_normal((3, 40)), lowrank(40, 4, np.zeros(1, np.float32))
    for t in range(60):
        step = lowrank_update(made, KINDS[kind](rng, t, a).astype(np.float32), 0.9)
        made = step.curvature
        assert np.all(made.sigma >= 0)
    inside = (rng.standard_normal((20, 4)).astype(np.float32) @ made.U).astype(np.float32)
    assert [lowrank_update(made, h, 0.9).dropped for h in inside] == [0.0] * 20


@pytest.mark.parametrize("share", [0.01, 0.1, 0.4])
def test_a_remainder_that_is_partly_new_adds_its_direction(rng, share):
    """Rows that are skew: most of p lies in the span of U, this share of its square does not."""
    Q = np.linalg.qr(rng.standard_normal((9, 4)))[0].T
    U = Q[:3] + 0.01 * rng.standard_normal((3, 3)) @ Q[:3]
    h = rng.standard_normal(3) @ U
    p = h - (U @ h) @ U
    h = h + math.sqrt(share / (1 - share) * (p @ p)) * Q[3]
    skew = LowRank(U, np.array([0.5, 1.0, 2.0]))
    step = lowrank_update(skew, h, 0.7)
    wanted, gone = truncated(0.7 * dense(skew) + 0.3 * np.outer(h, h), 3)
    close(dense(step.curvature), wanted, 1e-13)
    assert step.dropped == pytest.approx(gone, rel=1e-8)
    assert step.dropped > 0


def test_rows_that_are_not_orthonormal_are_made_so(rng):
    """S keeps what it stands for: the Gram matrix of U is part of the update. Without it, σ would be that of unit rows."""
    U = np.eye(3, 9) + 0.1 * rng.standard_normal((3, 9))
    skew = LowRank(U, np.array([0.5, 1.0, 2.0]))
    made = lowrank_update(skew, np.zeros(9), 1.0).curvature
    np.testing.assert_allclose(made.U @ made.U.T, np.eye(3), atol=1e-14)
    close(dense(made), dense(skew), 1e-13)
    assert np.abs(made.sigma - skew.sigma).max() > 1e-3


@pytest.mark.parametrize("off", [1e-2, 1e-5, 1e-9])
def test_a_vector_in_the_span_of_skew_rows_adds_no_direction(rng, off):
    """What U lacks in orthonormality leaves a remainder far above rounding that lies in the span of U: states out of float32."""
    U = np.linalg.qr(rng.standard_normal((9, 3)))[0].T + off * rng.standard_normal((3, 9))
    skew, h = LowRank(U, np.array([0.5, 1.0, 2.0])), rng.standard_normal(3) @ U
    step = lowrank_update(skew, h, 0.7)
    close(dense(step.curvature), 0.7 * dense(skew) + 0.3 * np.outer(h, h), 1e-13)
    np.testing.assert_allclose(step.curvature.U @ step.curvature.U.T, np.eye(3), atol=1e-13)
    assert step.dropped == 0


def test_zero_and_repeated_vectors(be, rng):
    h = be.array(rng.standard_normal(9))
    first = lowrank_update(lowrank(9, 3, be.like), h, 0.5).curvature
    decayed = lowrank_update(first, 0 * h, 0.5)
    close(dense(decayed.curvature, be), 0.5 * dense(first, be), be.tol(1e-14))
    assert decayed.dropped == 0
    for _ in range(5):
        first = lowrank_update(first, h, 0.5).curvature
    np.testing.assert_allclose(be.numpy(first.sigma)[:-1], 0, atol=be.tol(1e-14))
    H = np.outer(be.numpy(h), be.numpy(h))
    close(dense(first, be), (1 - 0.5**6) * H, be.tol(1e-14))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200])
@pytest.mark.parametrize("which", ["h", "v"])
def test_what_is_not_finite_changes_nothing(be, rng, which, bad):
    """The square of 1e200 overflows."""
    given = {"h": rng.standard_normal(7), "v": rng.standard_normal(7)}
    given[which][2] = bad if be.eps < 1e-10 else min(bad, 1e30)
    made = lowrank(7, 3, be.like)
    step = lowrank_step(made, be.array(given["h"]), be.array(given["v"]), DECAY, Inverse(DAMPING))
    assert step.curvature is made
    assert (step.x, step.dropped, step.finite) == (None, 0.0, False)


def test_scale_bound_amplification_and_relative_damping(rng):
    S, v = np.zeros((8, 8)), rng.standard_normal(8)
    made = lowrank(8, 3, v)
    for h in vectors(rng, 8, 3):
        made, S = lowrank_update(made, h, DECAY).curvature, DECAY * S + (1 - DECAY) * np.outer(h, h)
    gamma = 0.2 * 3 * np.linalg.eigvalsh(S)[-1]
    wanted = -0.5 * np.clip(np.linalg.solve(gamma * np.eye(8) + 3 * S, v), -0.3, 0.3)
    found = lowrank_solve(made, v, Inverse(1e-3, relative=0.2, amplify=3.0, scale=-0.5, bound=0.3))
    close(found, wanted, 1e-12)
    assert 0 < np.sum(np.abs(found) == 0.15) < 8
    np.testing.assert_allclose(lowrank_solve(lowrank(8, 0, v), v, Inverse(0.1, relative=0.2)), 10 * v)


def test_blocks_change_nothing_but_rounding(rng, monkeypatch):
    """Three columns a block, the last one short."""
    h, v = rng.standard_normal(13), rng.standard_normal(13)
    start = lowrank_update(lowrank(13, 4, h), vectors(rng, 13, 1)[0], 0.5).curvature
    whole = lowrank_step(start, h, v, DECAY, Inverse(DAMPING))
    monkeypatch.setattr(_array, "block_length", lambda row_bytes, like: 3)
    parts = lowrank_step(start, h, v, DECAY, Inverse(DAMPING))
    close(dense(parts.curvature), dense(whole.curvature), 1e-13)
    close(parts.x, whole.x, 1e-12)


@pytest.mark.parametrize(("dtype", "itemsize"), [(np.float32, 4), (np.float64, 8)])
def test_blocks_are_cut_by_the_size_of_a_number(monkeypatch, dtype, itemsize):
    asked = []
    monkeypatch.setattr(_array, "block_length", lambda row_bytes, like: asked.append(row_bytes) or 5)
    lowrank_update(lowrank(13, 4, np.zeros(1, dtype)), np.ones(13, dtype), 0.5)
    assert set(asked) == {4 * 7 * itemsize}


def test_what_does_not_fit_is_named(rng):
    S, h = lowrank(6, 2, np.zeros(1)), rng.standard_normal(6)
    with pytest.raises(ValueError, match=r"h has 5 entries; expected 6"):
        lowrank_update(S, h[:5], 0.9)
    with pytest.raises(BackendError, match=r"float32"):
        lowrank_step(S, h, h.astype(np.float32), 0.9, Inverse(1.0))
    with pytest.raises(ValueError, match=r"damping is 0"):
        lowrank_solve(S, h, Inverse(0.0))
    with pytest.raises(ValueError, match=r"v holds NaN or Inf"):
        lowrank_solve(S, h * math.nan, Inverse(1.0))
    with pytest.raises(ValueError, match=r"rank is -1"):
        lowrank(6, -1, h)
    with pytest.raises(ValueError, match=r"amplify is 0"):
        lowrank_solve(S, h, Inverse(1.0, amplify=0.0))
    for decay in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=rf"decay is {decay}; expected a number in \[0, 1\]"):
            lowrank_update(S, h, decay)
    with pytest.raises(ValueError, match=r"weight is -1.0; expected a finite number, at least 0"):
        lowrank_update(S, h, 0.5, -1.0)


@pytest.mark.parametrize(("damping", "scale"), [(1e-40, 1.0), (1e-36, -1e4)])
def test_a_damping_whose_reciprocal_overflows_is_refused(rng, damping, scale):
    """In float32; float64 has room for it."""
    h, inverse = rng.standard_normal(6), Inverse(damping, scale=scale)
    with pytest.raises(ValueError, match=rf"damping is {damping}; expected a number whose reciprocal.* is finite in float32"):
        lowrank_step(lowrank(6, 2, np.zeros(1, np.float32)), *[h.astype(np.float32)] * 2, 0.9, inverse)
    assert np.isfinite(lowrank_step(lowrank(6, 2, h), h, h, 0.9, inverse).x).all()


@pytest.mark.parametrize("k", [1, 4, THIN + 3])
def test_the_cost_is_that_of_the_docstrings(rng, k):
    """The remainder is the same at any d."""
    rest, peaks = set(), []
    for d in (64, 96, 128):
        S, h, v = wrap((lowrank(d, k, np.zeros(1)), rng.standard_normal(d), rng.standard_normal(d)))
        with count() as tally:
            lowrank_step(S, h, v, DECAY, Inverse(DAMPING))
        rest.add(tally.total - d * (4 * k * k + 12 * k + 9))
        peaks.append(tally.peak)
        with count() as tally:
            lowrank_solve(S, v, Inverse(DAMPING))
        assert 0 <= tally.total - d * (4 * k + 4) <= 6 * k
    assert len(rest) == 1
    assert peaks[1] - peaks[0] == peaks[2] - peaks[1]
    assert peaks[1] - peaks[0] <= 32 * 8 * (2 * k + 14)  # U, p and x; and within one block: rows of U, parts of vectors
