"""Damped block inverses: the same as one by one, and a ladder that helps the failing block without touching the others."""

import numpy as np
import pytest

from nearlin import _array, linalg
from nearlin.complexity import flops_of, wrap

SIZES = [1, 2, 9, 16, 17, 40, 65]  # swept, stacked and single


def definite(rng, count, k, condition=1e3):
    """(count, k, k) blocks with eigenvalues from 1/condition to 1, each in a basis of its own."""
    q, _ = np.linalg.qr(rng.standard_normal((count, k, k)))
    return (q * np.geomspace(1 / condition, 1, k)) @ q.mT


def with_block(blocks, index, block):
    changed = blocks.copy()
    changed[index] = block
    return changed


# --------------------------------------------------------------------------------------------------------------- inverses


@pytest.mark.parametrize("k", SIZES)
def test_every_block_has_its_own_inverse(be, rng, k):
    blocks = definite(rng, 6, k)
    result = linalg.block_inverse(be.array(blocks), 0.01)
    want = np.linalg.inv(blocks + 0.01 * np.eye(k))
    np.testing.assert_allclose(be.numpy(result.inverse), want, atol=be.tol(1e-12), rtol=0)
    assert (result.raised, result.kept, result.sentence()) == ((), (), "")


@pytest.mark.parametrize("k", [9, 40])
def test_many_chunks_give_what_one_block_gives(rng, k):
    blocks = definite(rng, 2**19 // (k * k), k)
    got = linalg.block_inverse(blocks, 0.01).inverse
    for i in (0, len(blocks) // 2, len(blocks) - 1):
        assert np.array_equal(got[i], linalg.block_inverse(blocks[i], 0.01).inverse)


@pytest.mark.parametrize("k", SIZES)
def test_inverses_are_symmetric_to_the_bit(rng, k):
    inverse = linalg.block_inverse(definite(rng, 3, k), 0.01).inverse
    assert np.array_equal(inverse, inverse.mT)


@pytest.mark.parametrize("lead", [(), (1,), (2, 3)], ids=str)
def test_the_shape_of_the_stack_is_kept(be, rng, lead):
    blocks = np.reshape(definite(rng, int(np.prod(lead)), 4), (*lead, 4, 4))
    got = be.numpy(linalg.block_inverse(be.array(blocks), 0.0).inverse)
    np.testing.assert_allclose(got @ blocks, np.broadcast_to(np.eye(4), blocks.shape), atol=be.tol(1e-11))


@pytest.mark.parametrize("k", SIZES)
def test_float32_stays_float32(be, rng, k):
    inverse = linalg.block_inverse(be.array(definite(rng, 3, k), "float32"), 0.01).inverse
    assert inverse.dtype == be.xp.float32


@pytest.mark.parametrize("k", [9, 40, 65])
def test_float32_with_a_thin_damping_is_inverted_in_float64(rng, k):
    blocks = definite(rng, 3, k, condition=1e5).astype(np.float32)
    exact = np.linalg.inv(blocks.astype(np.float64) + 1e-7 * np.eye(k))
    error = [np.abs(linalg.block_inverse(b, 1e-7).inverse - exact).max() / np.abs(exact).max() for b in (blocks, 1.0 * blocks)]
    assert max(error) < 2e-7
    plain = np.abs(np.linalg.inv(blocks + np.float32(1e-7) * np.eye(k, dtype=np.float32)) - exact).max() / np.abs(exact).max()
    assert plain > 1e-5


def test_only_the_thin_blocks_of_a_float32_stack_are_widened(rng):
    blocks = definite(rng, 5, 9).astype(np.float32)
    thin = with_block(blocks, 2, 1e6 * blocks[2])
    got, clean = linalg.block_inverse(thin, 1e-2).inverse, linalg.block_inverse(blocks, 1e-2).inverse
    assert np.array_equal(np.delete(got, 2, 0), np.delete(clean, 2, 0))
    want = np.linalg.inv(thin[2].astype(np.float64) + 1e-2 * np.eye(9))
    assert np.abs(got[2] - want).max() < 1e-7 * np.abs(want).max()


@pytest.mark.parametrize("share", [0.5e-5, 2e-5])
@pytest.mark.parametrize("k", [9, 40, 65, 785])
def test_float32_inverses_of_collinear_columns_are_good_to_a_percent(rng, k, share):
    """On both sides of the damping from which float64 is taken; the largest eigenvalue is k times the diagonal."""
    a = np.abs(rng.standard_normal((2 * k, 1))) + 1e-4 * rng.standard_normal((2 * k, k))
    block = (a.T @ a / len(a)).astype(np.float32)
    damping = share * float(np.trace(block))
    exact = np.linalg.inv(block.astype(np.float64) + damping * np.eye(k))
    got = linalg.block_inverse(block, damping).inverse
    assert np.linalg.norm(got - exact, 2) < (1e-5 if share < 1e-5 else 1e-2) * np.linalg.norm(exact, 2)


@pytest.mark.parametrize(
    ("k", "flops"),
    [
        (8, 6 * (8**3 + 11 * 8**2 + 10 * 8) - 1),
        (40, 6 * (22140 + 2 * 40**3 + 10 * 40**2 + 4 * 40) - 1),
        (65, 6 * (65**3 + 5 * 65**2 + 2 * 65 - 1) - 1),
    ],
)
def test_the_cost_is_the_one_stated(rng, k, flops):
    assert flops_of(linalg.block_inverse, definite(rng, 6, k), 0.01) == flops


@pytest.mark.parametrize("k", SIZES)
def test_counting_arrays_give_the_bits_of_numpy(rng, k):
    blocks = with_block(definite(rng, 4, k), 1, -0.05 * np.eye(k))
    got, want = linalg.block_inverse(wrap(blocks), 0.01), linalg.block_inverse(blocks, 0.01)
    assert np.array_equal(_array.to_numpy(got.inverse), want.inverse)
    assert got.raised == want.raised


# -------------------------------------------------------------------------------------------------------- blocks that fail


@pytest.mark.parametrize("k", SIZES)
def test_an_indefinite_block_is_named_and_the_others_do_not_notice(be, rng, k):
    blocks = definite(rng, 6, k)
    broken = with_block(blocks, 3, blocks[3] - 0.5 * np.eye(k))
    clean, result = linalg.block_inverse(be.array(blocks), 0.01), linalg.block_inverse(be.array(broken), 0.01, "kernel")
    assert [index for index, _ in result.raised] == [(3,)]
    assert result.raised[0][1] == pytest.approx(1.0, rel=1e-6)
    got = be.numpy(result.inverse)
    assert np.array_equal(np.delete(got, 3, 0), np.delete(be.numpy(clean.inverse), 3, 0))
    np.testing.assert_allclose(got[3], np.linalg.inv(broken[3] + result.raised[0][1] * np.eye(k)), rtol=be.tol(1e-9))
    assert result.sentence() == f"inverted: kernel 3 with damping {result.raised[0][1]:.3g}"


@pytest.mark.parametrize("k", SIZES)
def test_a_block_beyond_five_raises_keeps_its_previous_inverse(be, rng, k):
    blocks, previous = definite(rng, 4, k), rng.standard_normal((4, k, k))
    broken = with_block(blocks, 2, -2000 * np.eye(k))
    result = linalg.block_inverse(be.array(broken), 0.01, previous=be.array(previous))
    assert (result.raised, result.kept, result.nonfinite) == ((), ((2,),), ())
    assert np.array_equal(be.numpy(result.inverse)[2], be.numpy(be.array(previous))[2])
    assert result.sentence() == "not positive definite, previous inverse kept: block 2"


def test_five_raises_are_the_limit(rng):
    blocks = np.stack([-999 * np.eye(3), -1001 * np.eye(3)])
    result = linalg.block_inverse(blocks, 0.01, previous=np.ones((2, 3, 3)))
    assert result.raised == (((0,), pytest.approx(1000.0)),)
    assert result.kept == ((1,),)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(0, 0), (0, -1), (-1, 0)], ids=["diagonal", "above", "below"])
@pytest.mark.parametrize("k", [3, 40, 65])
def test_a_block_with_nan_or_inf_is_never_inverted(be, rng, k, where, value):
    blocks = definite(rng, 4, k)
    broken, previous = blocks.copy(), be.array(np.full((4, k, k), 7.0))
    broken[1, *where] = value
    result = linalg.block_inverse(be.array(broken), 0.01, previous=previous)
    assert (result.raised, result.kept, result.nonfinite) == ((), ((1,),), ((1,),))
    got, clean = be.numpy(result.inverse), be.numpy(linalg.block_inverse(be.array(blocks), 0.01).inverse)
    assert np.all(got[1] == 7.0)
    assert np.array_equal(np.delete(got, 1, 0), np.delete(clean, 1, 0))
    assert result.sentence() == "holding NaN or Inf, previous inverse kept: block 1"


def test_a_stack_of_nothing_but_nan_keeps_everything(be):
    previous = be.array(np.ones((3, 2, 2)))
    result = linalg.block_inverse(be.array(np.full((3, 2, 2), np.nan)), 0.01, previous=previous)
    assert result.nonfinite == ((0,), (1,), (2,))
    assert np.array_equal(be.numpy(result.inverse), np.ones((3, 2, 2)))


def test_without_damping_a_singular_block_starts_from_rounding_error(be):
    result = linalg.block_inverse(be.array([[[1.0, 1.0], [1.0, 1.0]]]), 0.0)
    ((index, damping),) = result.raised
    assert index == (0,)
    assert be.eps <= damping <= 100 * be.eps


def test_a_numerically_singular_block_is_not_inverted_as_it_is(rng):
    """Rank 5 of 9: the Cholesky factorisation of rounding noise can succeed, and then means nothing."""
    root = rng.standard_normal((50, 9, 5))
    result = linalg.block_inverse(root @ root.mT, 0.0)
    assert len(result.raised) == 50
    assert np.all(np.isfinite(result.inverse))


@pytest.mark.parametrize("k", [2, 16, 17, 65])
def test_a_pivot_of_one_rounding_error_is_none(k):
    """[[1, 1], [1, 1 + q ε]] has the pivots 1 and q ε."""
    eps, raised = np.finfo(float).eps, []
    for q in (1, 4):
        block = np.eye(k)
        block[:2, :2] = [[1, 1], [1, 1 + q * eps]]
        raised.append(len(linalg.block_inverse(block[None], 0.0).raised))
    assert raised == [1, 0]


def test_a_sentence_names_three_blocks_and_counts_the_others():
    found = linalg.block_inverse(np.stack([-np.eye(2)] * 5), 0.5, "kernel")
    assert found.sentence() == "inverted: kernel 0 with damping 5, kernel 1 with damping 5, kernel 2 with damping 5 and 2 more"


def test_without_a_previous_inverse_the_failure_is_an_error_that_says_what_to_change(be):
    blocks = np.stack([np.eye(2)] * 4 + [-9000.0 * np.eye(2)]).reshape(1, 5, 2, 2)
    words = r"kernel \(0, 4\) \(2 x 2, float.*\) with damping 1e\+03 .* eigenvalue is -9e\+03; raise the damping above 9e\+03"
    with pytest.raises(linalg.FactorizationError, match=words):
        linalg.block_inverse(be.array(blocks), 0.01, "kernel")


def test_a_nan_without_a_previous_inverse_is_an_error():
    with pytest.raises(linalg.FactorizationError, match=r"^factor \(3 x 3\) holds NaN or Inf"):
        linalg.block_inverse(np.full((3, 3), np.nan), 0.01, "factor")


def test_nothing_given_is_changed(rng):
    blocks, previous = with_block(definite(rng, 3, 9), 1, -9e9 * np.eye(9)), np.ones((3, 9, 9))
    for a in (blocks, previous):
        a.flags.writeable = False
    linalg.block_inverse(blocks, 0.1, previous=previous)


@pytest.mark.parametrize(
    ("blocks", "damping", "previous", "error", "words"),
    [
        (np.ones((2, 3)), 0.1, None, ValueError, r"blocks has shape \(2, 3\); expected a square matrix"),
        (np.eye(3), -1.0, None, ValueError, "damping is -1.0; expected a finite number"),
        (np.eye(3), float("nan"), None, ValueError, "damping is nan"),
        (np.eye(3), 0.1, np.eye(2), ValueError, r"previous is a float64 numpy array of shape \(2, 2\)"),
        (np.eye(3), 0.1, np.eye(3, dtype=np.float32), _array.BackendError, "previous has float32"),
        (np.eye(3, dtype=np.int64), 0.1, None, TypeError, "blocks has dtype int64"),
    ],
)
def test_bad_input_is_named(blocks, damping, previous, error, words):
    with pytest.raises(error, match=words):
        linalg.block_inverse(blocks, damping, previous=previous)


# ---------------------------------------------------------------------------------------------------------- the primitives


def test_the_inverse_of_one_definite_matrix(be, rng):
    a = definite(rng, 1, 70)[0]
    got = be.numpy(_array.spd_inverse(be.array(a), 0.01))
    np.testing.assert_allclose(got, np.linalg.inv(a + 0.01 * np.eye(70)), atol=be.tol(1e-12))


@pytest.mark.parametrize("a", [[[1.0, 2.0], [2.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]], ids=["indefinite", "singular"])
def test_it_fails_the_same_way_on_every_backend(be, a):
    with pytest.raises(_array.NotPositiveDefinite):
        _array.spd_inverse(be.array(a))


def test_its_count_is_that_of_potrf_and_potri():
    assert flops_of(_array.spd_inverse, np.eye(7), 1.0) == 7**3 + 7**2 + 7 + 7
