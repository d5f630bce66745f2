"""`Dataset` and `split`."""

import numpy as np
import pytest

from nearlin._array import generator
from nearlin.data import DataError, Dataset, split


def make(n):
    return Dataset("toy", np.arange(2.0 * n).reshape(n, 2), np.arange(float(n)))


@pytest.mark.parametrize(
    ("n", "fraction", "held_out"), [(10, 0.2, 2), (10, 0.01, 1), (10, 0.99, 9), (10, 0.28, 3), (2, 0.5, 1), (3, 0.2, 1)]
)
def test_sizes_and_disjoint_cover(n, fraction, held_out):
    train, test = split(make(n), fraction, seed=1)
    assert len(test) == held_out
    assert sorted([*train.rows, *test.rows]) == list(range(n))
    np.testing.assert_array_equal(train.y, train.rows)
    np.testing.assert_array_equal(test.x[:, 0], 2 * test.rows)


def test_split_follows_the_seed_alone():
    first, second, third = split(make(30), 0.3, 5), split(make(30), 0.3, 5), split(make(30), 0.3, 6)
    np.testing.assert_array_equal(first[1].rows, second[1].rows)
    assert not np.array_equal(first[1].rows, third[1].rows)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_rows_of_a_split_are_no_draws_of_another_user_of_the_seed(seed):
    """Not those of the permutation that the seed itself gives; and the ones that they always were."""
    order = generator(seed).permutation(12)
    _, test = split(make(12), 0.5, seed)
    assert sorted(order[:6]) != list(test.rows)
    assert list(test.rows) == {0: [0, 1, 3, 6, 7, 10], 1: [0, 1, 2, 6, 8, 11], 7: [2, 5, 6, 8, 9, 10]}[seed]


def test_no_test_part():
    train, test = split(make(4), 0)
    assert test is None
    assert len(train) == 4


def test_one_row_cannot_be_split():
    with pytest.raises(DataError, match="toy has 1 row"):
        split(make(1), 0.2)


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
def test_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match="test_fraction"):
        split(make(4), fraction)


@pytest.mark.parametrize(
    ("x", "y", "task", "says"),
    [
        (np.ones(3), np.ones(3), "regression", r"x has shape \(3,\)"),
        (np.ones((3, 0)), np.ones(3), "regression", "at least one row and one feature"),
        (np.ones((0, 2)), np.ones(0), "regression", "at least one row and one feature"),
        (np.ones((3, 2)), np.ones(2), "regression", "x has 3 rows and y has 2"),
        (np.ones((3, 2)), np.ones((3, 2, 1)), "regression", r"y has shape \(3, 2, 1\)"),
        (np.ones((3, 2)), np.ones((3, 2)), "classification", r"y has shape \(3, 2\)"),
        (np.full((3, 2), np.nan), np.ones(3), "regression", "6 NaN or Inf"),
        (np.ones((3, 2)), np.array([1, np.inf, 0]), "regression", "row 1"),
        (np.ones((3, 2)) * 1j, np.ones(3), "regression", "dtype complex128"),
        (np.ones((3, 2)), np.array(["a", "b", "c"]), "regression", "y has dtype"),
        (np.ones((3, 2)), np.array([1, 1, 1]), "classification", r"1 distinct value\(s\) \('1'\); expected at least two"),
        (np.ones((3, 2)), np.ones(3), "ranking", "task is 'ranking'"),
    ],
)
def test_bad_data_gets_one_sentence(x, y, task, says):
    with pytest.raises(DataError, match=says) as caught:
        Dataset("toy", x, y, task)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("toy")


def test_integers_become_float64():
    data = Dataset("toy", np.ones((3, 2), dtype=np.int32), np.array([[1], [2], [3]], dtype=np.uint8))
    assert data.x.dtype == data.y.dtype == np.float64
    assert data.y.shape == (3,)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_a_stratified_split_shares_every_class_alike(fraction, seed):
    labels = np.repeat(np.arange(5), (60, 25, 9, 5, 1))
    rng = np.random.default_rng(seed)
    data = Dataset("toy", rng.normal(size=(100, 2)), rng.permutation(labels), "classification", tuple("abcde"))
    train, test = split(data, fraction, seed, stratified=True)
    assert sorted([*train.rows, *test.rows]) == list(range(100))
    assert len(test) == round(100 * fraction)
    counts = np.bincount(test.y, minlength=5)
    assert np.all(np.abs(counts - fraction * np.array([60, 25, 9, 5, 1])) < 1)
    assert set(train.y) == set(range(5))
    assert not np.array_equal(test.rows, split(data, fraction, seed + 9, stratified=True)[1].rows)


def test_every_class_keeps_a_training_row_whatever_its_share():
    data = Dataset("toy", np.arange(8.0)[:, None], [0, 0, 0, 0, 0, 0, 1, 2], "classification", ("a", "b", "c"))
    for seed in range(5):
        assert set(split(data, 0.9, seed, stratified=True)[0].y) == {0, 1, 2}


def test_a_split_that_is_not_stratified_can_lose_a_class():
    """The control: without shares, a class of two rows is missing from the training rows of some seed."""
    y = np.zeros(40, int)
    y[:2] = 1
    data = Dataset("toy", np.arange(80.0).reshape(40, 2), y, "classification", ("a", "b"))
    for stratified, expected in ((False, True), (True, False)):
        lost = [1 not in split(data, 0.5, seed, stratified)[0].y for seed in range(20)]
        assert any(lost) == expected
