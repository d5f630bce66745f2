"""BFGS updates of an inverse: the secant equation, damping that lands on its thresholds, and limited memory three ways."""

import math

import numpy as np
import pytest

from nearlin import linalg
from nearlin.complexity import flops_of

N = 7


def definite(rng, n=N, condition=1e2):
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    return (q * np.geomspace(1 / condition, 1, n)) @ q.T


@pytest.fixture
def H(rng):
    """A symmetric positive definite inverse curvature."""
    half = definite(rng)
    return (half + half.T) / 2


@pytest.fixture
def pair(rng):
    """A pair with positive curvature."""
    s = rng.standard_normal(N)
    return s, definite(rng) @ s


def given(be, *arrays):
    return tuple(be.array(a) for a in arrays)


# ---------------------------------------------------------------------------------------------------------------- the update


def test_the_update_satisfies_the_secant_equation(be, H, pair):
    new, word = linalg.bfgs_update(*given(be, H, *pair))
    s, y = pair
    assert word == "updated"
    np.testing.assert_allclose(be.numpy(new) @ y, s, atol=be.tol(1e-13))
    assert np.abs(H @ y - s).max() > 0.1


def test_the_update_is_the_product_form(be, H, pair):
    s, y = pair
    V = np.eye(N) - np.outer(y, s) / (s @ y)
    want = V.T @ H @ V + np.outer(s, s) / (s @ y)
    np.testing.assert_allclose(be.numpy(linalg.bfgs_update(*given(be, H, s, y))[0]), want, atol=be.tol(1e-12))


def test_the_update_stays_symmetric_and_definite(rng, H):
    for _ in range(200):
        s = rng.standard_normal(N)
        H, word = linalg.bfgs_update(H, s, definite(rng) @ s)
        assert word == "updated"
    np.testing.assert_allclose(H, H.T, atol=1e-12 * np.abs(H).max())
    assert np.linalg.eigvalsh(H)[0] > 0


@pytest.mark.parametrize(("scale", "gradient_norm"), [(0.0, 0.0), (-1.0, 0.0), (1.0, 1e9)], ids=["zero", "negative", "small"])
def test_a_pair_without_enough_curvature_is_skipped(be, H, pair, scale, gradient_norm):
    H, s, y = given(be, H, pair[0], scale * pair[1])
    new, word = linalg.bfgs_update(H, s, y, gradient_norm)
    assert (new is H, word) == (True, "skipped: curvature")


@pytest.mark.parametrize(("factor", "word"), [(0.99, "updated"), (1.01, "skipped: curvature")])
def test_the_test_of_curvature_is_the_one_stated(H, pair, factor, word):
    s, y = pair
    edge = (s @ y) / (1e-4 * (s @ s))
    assert linalg.bfgs_update(H, s, y, factor * edge)[1] == word


def test_a_vanishing_step_is_skipped(be, H):
    zero, one = given(be, np.zeros(N), np.ones(N))
    assert linalg.bfgs_update(be.array(H), zero, one)[1] == "skipped: no curvature"


def test_a_pair_that_the_inverse_does_not_see_is_skipped(be, pair):
    assert linalg.bfgs_update(be.array(np.zeros((N, N))), *given(be, *pair))[1] == "skipped: no curvature"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_pair_that_is_not_finite_is_rejected(be, H, pair, value):
    s, y = (a.copy() for a in pair)
    s[2] = value
    H, s, y = given(be, H, s, y)
    new, word = linalg.bfgs_update(H, s, y)
    assert (new is H, word) == (True, "rejected: non-finite")


def test_an_update_that_overflows_is_rejected(be):
    s, y = given(be, np.asarray([1e18, 0.0]), np.asarray([1e-22, 1e-3]))
    H = be.array(np.eye(2), "float32")
    s, y = (be.xp.astype(a, be.xp.float32) for a in (s, y))
    new, word = linalg.bfgs_update(H, s, y)
    assert (new is H, word) == (True, "rejected: non-finite")


def test_float32_stays_float32(be, H, pair):
    H, s, y = (be.array(a, "float32") for a in (H, *pair))
    assert linalg.bfgs_update(H, s, y)[0].dtype == be.xp.float32
    damped = linalg.double_damping(s, -1.0 * y, H @ y, 0.2, 0.5)
    assert (damped.s.dtype, damped.y.dtype) == (be.xp.float32, be.xp.float32)


def test_the_cost_is_the_one_stated(rng):
    s = rng.standard_normal(400)
    assert flops_of(linalg.bfgs_update, np.eye(400), s, 2 * s) == pytest.approx(9 * 400**2, rel=0.02)


def test_an_inverse_is_tracked_along_one_direction(be, rng, H):
    """The update satisfies H⁺ (A + λ I) s = s for s = H v, and moves H towards the inverse."""
    A, v = definite(rng), rng.standard_normal(N)
    new, word = linalg.track_inverse(*given(be, H, A), 0.3, be.array(v))
    s = H @ v
    assert word == "updated"
    np.testing.assert_allclose(be.numpy(new) @ (A @ s + 0.3 * s), s, atol=be.tol(1e-12))


def test_tracking_often_enough_finds_the_inverse(rng):
    A, H = definite(rng) + 0.3 * np.eye(N), np.eye(N)
    for _ in range(300):
        H, _ = linalg.track_inverse(H, A - 0.3 * np.eye(N), 0.3, rng.standard_normal(N))
    np.testing.assert_allclose(H, np.linalg.inv(A), atol=1e-6)


# ------------------------------------------------------------------------------------------------------------------- damping


@pytest.mark.parametrize("sign", [-1.0, 0.01])
def test_powell_damping_lands_on_its_threshold(be, H, pair, sign):
    s, y = pair[0], sign * pair[1]
    got = linalg.powell_damping(*given(be, s, y, H @ y), mu=0.2)
    Hy = H @ y
    s_new = be.numpy(got.s)
    if sign > 0:  # s is long: no damping needed
        assert (got.word, np.array_equal(s_new, be.numpy(be.array(s)))) == ("kept", True)
    else:
        assert got.word == "s damped"
        assert s_new @ y == pytest.approx(0.2 * (y @ Hy), rel=be.tol(1e-12))


@pytest.mark.parametrize("mu", [0.05, 0.3, 0.9, 1.0, 2.5])
def test_minimal_damping_lands_on_its_threshold(be, pair, mu):
    s, y = pair[0], -pair[1]
    got = linalg.minimal_damping(*given(be, s, y), mu)
    assert got.word == "y damped"
    assert be.numpy(got.y) @ s == pytest.approx(mu * (s @ s), rel=be.tol(1e-13))


def test_a_threshold_above_one_needs_no_division_by_zero(be):
    s = np.asarray([1.0, 2.0, -1.0])
    got = linalg.minimal_damping(*given(be, s, s), 1.5)
    np.testing.assert_allclose(be.numpy(got.y), 1.5 * s, rtol=be.tol(1e-15))


def test_minimal_damping_keeps_a_pair_above_its_threshold(be, pair):
    s, y = given(be, *pair)
    got = linalg.minimal_damping(s, y, 1e-4)
    assert (got.y is y, got.word) == (True, "kept")


@pytest.mark.parametrize(
    ("sign", "mu2", "word"),
    [(-1.0, 0.5, "s and y damped"), (1.0, 1e-4, "kept"), (1.0, 2.0, "y damped"), (-1.0, 1e-9, "s damped")],
)
def test_double_damping_is_one_after_the_other(be, pair, sign, mu2, word):
    s, y = 10 * pair[0], sign * pair[1]
    H = np.eye(N)
    s, y, Hy = given(be, s, y, H @ y)
    got = linalg.double_damping(s, y, Hy, 0.2, mu2)
    first = linalg.powell_damping(s, y, Hy, 0.2)
    second = linalg.minimal_damping(first.s, first.y, mu2)
    assert got.word == word
    assert np.array_equal(be.numpy(got.s), be.numpy(first.s))
    assert np.array_equal(be.numpy(got.y), be.numpy(second.y))


def test_double_damping_makes_every_pair_an_update(rng, H):
    for _ in range(50):
        s, y = rng.standard_normal((2, N))
        damped = linalg.double_damping(s, y, H @ y, 0.2, 0.1)
        H, word = linalg.bfgs_update(H, damped.s, damped.y, gradient_norm=100.0)
        assert word == "updated"
    assert np.linalg.eigvalsh(H)[0] > 0


def test_without_damping_most_random_pairs_are_skipped(rng, H):
    words = [linalg.bfgs_update(H, *rng.standard_normal((2, N)))[1] for _ in range(50)]
    assert words.count("skipped: curvature") > 10


@pytest.mark.parametrize(
    ("s", "y", "word"),
    [
        (np.ones(3), np.zeros(3), "skipped: no curvature"),
        (np.full(3, np.nan), np.ones(3), "rejected: non-finite"),
        (np.ones(3), np.full(3, np.inf), "rejected: non-finite"),
        (np.ones(3) * 1e200, np.ones(3) * 1e200, "rejected: non-finite"),
    ],
    ids=["y = 0", "nan", "inf", "overflow"],
)
def test_a_dead_or_broken_pair_is_not_damped(s, y, word):
    got = linalg.double_damping(s, y, y, 0.2, 0.1)
    assert (got.s is s, got.y is y, got.word, got.usable) == (True, True, word, False)


@pytest.mark.parametrize(
    ("noise", "word"), [(0.0, "kept"), (1.9, "kept"), (2.1, "skipped: no curvature"), (math.inf, "rejected: non-finite")]
)
def test_a_pair_that_may_be_rounding_is_skipped(be, noise, word):
    """||y|| = 2."""
    s, y = given(be, np.ones(4), np.ones(4))
    got = linalg.double_damping(s, y, y, 0.2, 0.1, noise)
    assert got.word == word
    assert got.usable == (word == "kept")


@pytest.mark.parametrize(
    ("mu1", "mu2", "words"), [(0.0, 0.1, "mu1 is 0.0"), (1.0, 0.1, "mu1 is 1.0"), (0.2, 0.0, "mu2 is 0.0; expected a positive")]
)
def test_thresholds_out_of_range_are_named(mu1, mu2, words):
    with pytest.raises(ValueError, match=words):
        linalg.double_damping(np.ones(2), np.ones(2), np.ones(2), mu1, mu2)


# ------------------------------------------------------------------------------------------------------------ limited memory


def remembered(rng, be, count, memory, n=N):
    """Limited-memory pairs of ``count`` updates, and the dense update by those that are left."""
    pairs, kept = linalg.LimitedMemory(), []
    for _ in range(count):
        s = rng.standard_normal(n)
        y = definite(rng, n) @ s
        pairs, word = linalg.remember(pairs, *given(be, s, y), memory)
        assert word == "updated"
        kept.append((s, y))
    H = np.eye(n)
    for s, y in kept[-memory:]:
        H, _ = linalg.bfgs_update(H, s, y)
    return pairs, H


@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, 4)], ids=str)
@pytest.mark.parametrize(("count", "memory"), [(1, 10), (5, 10), (9, 4), (3, 1)])
@pytest.mark.parametrize("product", [linalg.compact_product, linalg.two_loop_product], ids=lambda f: f.__name__)
def test_limited_memory_is_the_matrix_of_its_pairs(be, rng, count, memory, shape, product):
    pairs, H = remembered(rng, be, count, memory)
    M = rng.standard_normal(shape)
    got = be.numpy(product(pairs, be.array(M)))
    assert got.shape == shape
    np.testing.assert_allclose(got, H @ M, atol=be.tol(1e-10) * np.abs(H @ M).max())


def test_the_two_products_agree_and_calling_is_the_compact_one(be, rng):
    pairs, _ = remembered(rng, be, 12, 6, n=20)
    M = be.array(rng.standard_normal((20, 3)))
    compact, loops = be.numpy(linalg.compact_product(pairs, M)), be.numpy(linalg.two_loop_product(pairs, M))
    np.testing.assert_allclose(compact, loops, atol=be.tol(1e-10) * np.abs(loops).max())
    assert np.array_equal(be.numpy(pairs(M)), compact)


def test_without_pairs_the_matrix_is_the_identity(be, rng):
    M = be.array(rng.standard_normal((N, 2)))
    assert linalg.LimitedMemory()(M) is M
    assert linalg.two_loop_product(linalg.LimitedMemory(), M) is M


def test_the_oldest_pair_is_dropped_first(be, rng):
    pairs = linalg.LimitedMemory()
    for i in range(1, 6):
        pairs, _ = linalg.remember(pairs, *given(be, np.full(3, i), np.full(3, i)), 3)
    assert be.numpy(pairs.S)[:, 0].tolist() == [3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("s", "y", "gradient_norm", "word"),
    [
        (np.ones(3), -np.ones(3), 0.0, "skipped: curvature"),
        (np.ones(3), np.ones(3), 2e4, "skipped: curvature"),
        (np.zeros(3), np.ones(3), 0.0, "skipped: no curvature"),
        (np.full(3, np.nan), np.ones(3), 0.0, "rejected: non-finite"),
        (np.full(3, 1e200), np.full(3, 1e200), 0.0, "rejected: non-finite"),
    ],
    ids=["negative", "small", "no step", "nan", "overflow"],
)
def test_a_refused_pair_leaves_the_memory_as_it_is(s, y, gradient_norm, word):
    before, _ = linalg.remember(linalg.LimitedMemory(), np.ones(3), np.ones(3), 5)
    after, got = linalg.remember(before, s, y, 5, gradient_norm)
    assert (after is before, got) == (True, word)


def test_a_memory_of_nothing_is_refused():
    with pytest.raises(ValueError, match="memory is 0; expected an integer of at least 1"):
        linalg.remember(linalg.LimitedMemory(), np.ones(3), np.ones(3), 0)


@pytest.mark.parametrize(
    ("product", "extra"),
    [(linalg.compact_product, 4 * 5**2 * (60 + 40)), (linalg.two_loop_product, 0)],
    ids=["compact", "two loops"],
)
def test_the_cost_of_a_product_is_the_one_stated(rng, numpy_backend, product, extra):
    pairs, _ = remembered(rng, numpy_backend, 5, 5, n=60)
    assert flops_of(product, pairs, rng.standard_normal((60, 40))) == pytest.approx(8 * 5 * 60 * 40 + extra, rel=0.06)
