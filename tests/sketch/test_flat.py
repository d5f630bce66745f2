"""Laws of the sketches of flat vectors."""

import dataclasses

import numpy as np
import pytest

from nearlin._array import BackendError
from nearlin.sketch import SRHT, CountSketch, Gaussian, SparseSign

DISTRIBUTIONS = [Gaussian(), SRHT(), CountSketch(), SparseSign(nnz=5)]
SIZES = [(8, 16), (13, 37), (37, 13), (64, 16), (5, 1)]  # rows s above and below p and its next power of two, dividing it or not

every_distribution = pytest.mark.parametrize("dist", DISTRIBUTIONS, ids=lambda dist: type(dist).__name__)
every_size = pytest.mark.parametrize(("s", "p"), SIZES)


def matrix(dist, key, s, p):
    """The drawn operator as a NumPy matrix."""
    return dist.sample(key, s, p, like=np.empty(0)) @ np.eye(p)


def arrays(sample):
    """All arrays that a sample holds."""
    for field in dataclasses.fields(sample):
        value = getattr(sample, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(item):
                yield from arrays(item)
            elif hasattr(item, "dtype"):
                yield item


@every_distribution
@every_size
def test_mean_of_gram_over_draws_is_identity(dist, s, p):
    draws = 300
    mean = sum(a.T @ a for a in (matrix(dist, key, s, p) for key in range(draws))) / draws
    assert np.max(np.abs(mean - np.eye(p))) < 6 * (2 / (s * draws)) ** 0.5  # entries of SᵀS have variance 2/s at most


@every_distribution
@every_size
def test_rmatmul_is_the_adjoint(be, rng, dist, s, p):
    sketch = dist.sample(3, s, p, like=be.like)
    a, b = rng.standard_normal((p, 4)), rng.standard_normal((s, 3))
    forward, backward = sketch @ be.array(a), sketch.rmatmul(be.array(b))
    assert forward.shape == (s, 4)
    assert backward.shape == (p, 3)
    assert forward.dtype == backward.dtype == be.dtype
    np.testing.assert_allclose(b.T @ be.numpy(forward), be.numpy(backward).T @ a, atol=be.tol(1e-13) * (s + p))


@every_distribution
def test_vector_gives_the_column_of_the_matrix(be, rng, dist):
    sketch = dist.sample(3, 13, 37, like=be.like)
    assert sketch.shape == (13, 37)
    for product, rows in ((sketch.__matmul__, 37), (sketch.rmatmul, 13)):
        x = be.array(rng.standard_normal((rows, 2)))
        np.testing.assert_allclose(be.numpy(product(x[:, 1])), be.numpy(product(x))[:, 1], rtol=0, atol=be.tol(1e-13))


@every_distribution
@every_size
def test_same_key_gives_same_operator_on_every_backend(be, rng, dist, s, p):
    a = rng.standard_normal((p, 3))
    expected = dist.sample(11, s, p, like=np.empty(0)) @ a
    found = dist.sample(11, s, p, like=be.like) @ be.array(a)
    np.testing.assert_allclose(be.numpy(found), expected, rtol=0, atol=be.tol(1e-14) * (s + p))


@every_distribution
def test_same_key_gives_same_operator_twice(dist):
    np.testing.assert_array_equal(matrix(dist, 5, 8, 16), matrix(dist, 5, 8, 16))


@every_distribution
def test_two_keys_give_two_operators(dist):
    assert np.max(np.abs(matrix(dist, 5, 8, 16) - matrix(dist, 6, 8, 16))) > 0.1


@every_distribution
def test_inputs_are_not_changed(be, rng, dist):
    host = rng.standard_normal((16, 2))
    a, b = be.array(host), be.array(host[:8])
    sketch = dist.sample(0, 8, 16, like=be.like)
    sketch @ a
    sketch.rmatmul(b)
    np.testing.assert_array_equal(be.numpy(a), be.numpy(be.array(host)))
    np.testing.assert_array_equal(be.numpy(b), be.numpy(be.array(host[:8])))


@every_distribution
@pytest.mark.parametrize(("s", "p"), [(13, 37), (37, 13)])
def test_float32_stays_float32(be, dist, s, p):
    like = be.array(np.empty(0), dtype="float32")
    sketch = dist.sample(0, s, p, like=like)
    out = [sketch @ be.array(np.ones((p, 2)), dtype="float32"), sketch.rmatmul(be.array(np.ones(s), dtype="float32"))]
    assert all(x.dtype in (be.xp.float32, be.xp.int64) for x in (*out, *arrays(sketch)))


def test_countsketch_has_one_sign_per_column_in_balanced_rows():
    a = matrix(CountSketch(), 1, 8, 64)
    np.testing.assert_array_equal(np.sum(np.abs(a), axis=0), np.ones(64))
    np.testing.assert_array_equal(np.sum(np.abs(a), axis=1), np.full(8, 8.0))


@pytest.mark.parametrize("s", [5, 16, 23])
def test_sparse_sign_has_nnz_equal_magnitudes_per_column(s):
    a = matrix(SparseSign(nnz=5), 1, s, 64)
    np.testing.assert_array_equal(np.sum(a != 0, axis=0), np.full(64, 5))
    np.testing.assert_allclose(np.abs(a[a != 0]), 5**-0.5)


def test_sparse_sign_shares_its_rows_out_to_within_one():
    a = matrix(SparseSign(nnz=5), 1, 23, 4 * 5 * 60)
    loads = np.count_nonzero(a, axis=1)
    assert set(loads.tolist()) == {4 * 60, 5 * 60}


def test_sparse_sign_blocks_are_drawn_independently():
    a = matrix(SparseSign(nnz=2), 1, 16, 64)
    assert not np.array_equal(np.abs(a[:8]), np.abs(a[8:]))


@pytest.mark.parametrize("s", [16, 32])
def test_srht_of_whole_rounds_is_an_isometry(s):
    a = matrix(SRHT(), 1, s, 16)
    np.testing.assert_allclose(a.T @ a, np.eye(16), atol=1e-14)


def test_srht_repeats_no_row_before_all_are_taken():
    a = matrix(SRHT(), 1, 15, 16)
    np.testing.assert_allclose(a @ a.T, 16 / 15 * np.eye(15), atol=1e-14)


@every_distribution
@pytest.mark.parametrize("s", [0, -1, 2.0, True, None])
def test_sketch_size_must_be_a_positive_integer(dist, s):
    with pytest.raises(ValueError, match=f"s is {s!r}; expected an integer of at least 1"):
        dist.sample(0, s, 16, like=np.empty(0))


@every_distribution
@pytest.mark.parametrize("p", [0, 1.5, ((4, 4),)])
def test_vector_length_must_be_a_positive_integer(dist, p):
    with pytest.raises(ValueError, match=r"shape is .*; expected an integer of at least 1"):
        dist.sample(0, 8, p, like=np.empty(0))


@every_distribution
def test_array_of_another_length_is_refused(be, dist):
    sketch = dist.sample(0, 8, 16, like=be.like)
    with pytest.raises(ValueError, match=r"A has shape \(15, 2\); expected 16 rows"):
        sketch @ be.array(np.ones((15, 2)))
    with pytest.raises(ValueError, match=r"B has shape \(16,\); expected 8 rows"):
        sketch.rmatmul(be.array(np.ones(16)))


@every_distribution
def test_array_of_three_dimensions_is_refused(be, dist):
    with pytest.raises(ValueError, match="A has shape"):
        dist.sample(0, 8, 16, like=be.like) @ be.array(np.ones((16, 2, 2)))


@every_distribution
def test_array_of_another_backend_or_dtype_is_refused(dist):
    strict = pytest.importorskip("array_api_strict")
    sketch = dist.sample(0, 8, 16, like=np.empty(0))
    with pytest.raises(BackendError, match=r"A is a float64 array_api_strict array .* the sample is a float64 numpy array"):
        sketch @ strict.ones((16, 2))
    with pytest.raises(BackendError, match="A has dtype float32, the sample has float64"):
        sketch @ np.ones((16, 2), dtype=np.float32)


@every_distribution
def test_array_of_another_device_is_refused(dist):
    strict = pytest.importorskip("array_api_strict")
    sketch = dist.sample(0, 8, 16, like=strict.empty((0,), device=strict.Device("device1")))
    with pytest.raises(BackendError, match="share one backend and device"):
        sketch @ strict.ones((16, 2))


@every_distribution
@pytest.mark.parametrize(
    ("like", "error"), [([1.0], BackendError), (np.empty(0, np.int64), TypeError), (np.empty(0, np.float16), TypeError)]
)
def test_prototype_must_be_a_float_array(dist, like, error):
    with pytest.raises(error, match="like is a"):
        dist.sample(0, 8, 16, like=like)


@every_distribution
def test_numpy_array_times_sketch_is_an_error(dist):
    sketch = dist.sample(0, 8, 16, like=np.empty(0))
    with pytest.raises(TypeError, match="unsupported operand"):
        np.ones((2, 8)) @ sketch


def test_sparse_sign_needs_a_row_for_every_nonzero():
    with pytest.raises(ValueError, match="nnz is 8 and s is 7"):
        SparseSign().sample(0, 7, 16, like=np.empty(0))


def test_sparse_sign_needs_a_nonzero():
    with pytest.raises(ValueError, match="nnz is 0"):
        SparseSign(nnz=0)
