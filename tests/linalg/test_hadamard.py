"""The Walsh-Hadamard transform against its matrix."""

import numpy as np
import pytest
import scipy.linalg

from nearlin._array import BackendError
from nearlin.linalg.hadamard import fwht, next_power_of_two, pad_rows

SIZES = [1, 2, 4, 8, 32, 128, 512, 1024]


@pytest.mark.parametrize("shape", [(n, *columns) for n in SIZES for columns in ((), (1,), (3,))])
def test_transform_equals_product_with_hadamard_matrix(be, rng, shape):
    x = rng.standard_normal(shape)
    expected = scipy.linalg.hadamard(shape[0]) @ x
    y = fwht(be.array(x))
    assert y.dtype == be.dtype
    np.testing.assert_allclose(be.numpy(y), expected, rtol=0, atol=be.tol(1e-13) * shape[0])


@pytest.mark.parametrize("shape", [(1,), (2, 3), (4,), (1024, 2), (2**15,)])
def test_transform_twice_is_n_times_identity(be, rng, shape):
    x = rng.standard_normal(shape)
    np.testing.assert_allclose(be.numpy(fwht(fwht(be.array(x)))), shape[0] * x, rtol=0, atol=be.tol(1e-13) * shape[0])


@pytest.mark.parametrize("n", [1, 2, 64])
def test_input_is_neither_changed_nor_returned(be, rng, n):
    host = rng.standard_normal((n, 2))
    x = be.array(host)
    y = fwht(x)
    assert y is not x
    np.testing.assert_array_equal(be.numpy(x), host.astype(be.numpy(x).dtype))


def test_transform_of_one_row_shares_no_memory_with_input():
    x = np.ones((1, 3))
    assert not np.shares_memory(fwht(x), x)


@pytest.mark.parametrize("order", ["C", "F"])
def test_transform_accepts_any_memory_layout(rng, order):
    x = np.asarray(rng.standard_normal((64, 5)), order=order)
    np.testing.assert_allclose(fwht(x), scipy.linalg.hadamard(64) @ x, atol=1e-12)


def test_float32_stays_float32(rng):
    assert fwht(rng.standard_normal((256, 2)).astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("n", [3, 6, 1000])
def test_length_must_be_a_power_of_two(be, n):
    with pytest.raises(ValueError, match=f"x has {n} rows; expected a power of two"):
        fwht(be.array(np.ones((n, 2))))


def test_three_dimensions_are_refused():
    with pytest.raises(ValueError, match="x has shape"):
        fwht(np.ones((2, 2, 2)))


def test_lists_are_refused():
    with pytest.raises(BackendError, match="x is a list"):
        fwht([1.0, 2.0])


def test_integers_are_refused():
    with pytest.raises(TypeError, match="x has dtype int64"):
        fwht(np.ones(4, dtype=np.int64))


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (1023, 1024), (1025, 2048)])
def test_next_power_of_two_is_the_smallest_one_not_below(n, expected):
    assert next_power_of_two(n) == expected


def test_next_power_of_two_refuses_zero():
    with pytest.raises(ValueError, match="n is 0"):
        next_power_of_two(0)


@pytest.mark.parametrize("shape", [(3,), (3, 2)])
def test_padding_adds_rows_of_zeros(be, rng, shape):
    x = rng.standard_normal(shape)
    padded = be.numpy(pad_rows(be.array(x), 8))
    np.testing.assert_allclose(padded[:3], x, rtol=be.tol(1e-15))
    np.testing.assert_array_equal(padded[3:], np.zeros((5, *shape[1:])))


def test_padding_to_fewer_rows_is_refused():
    with pytest.raises(ValueError, match="x has 4 rows; expected at most 2"):
        pad_rows(np.ones((4, 1)), 2)
