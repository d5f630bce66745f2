"""The exact degree of counts."""

from fractions import Fraction

import numpy as np
import pytest

from nearlin.complexity import count, degree, difference_table, leading_term, nlogn, wrap

SIZES = [10, 20, 30, 40, 50]


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda n: 0, (0, 0)),
        (lambda n: 7, (0, 7)),
        (lambda n: 3 * n + 1000, (1, 3)),
        (lambda n: n * n + 100 * n, (2, 1)),
        (lambda n: n * (n + 1) * (2 * n + 1) // 6, (3, Fraction(1, 3))),
        (lambda n: Fraction(4 * n**3, 3), (3, Fraction(4, 3))),
        (lambda n: np.int64(2 * n), (1, 2)),
    ],
)
def test_polynomials_are_read_off_exactly(f, expected):
    assert leading_term(f, SIZES) == expected
    assert degree(f, SIZES) == expected[0]


def test_the_degree_of_a_counted_function():
    def gram(n):
        A = wrap(np.ones((n, 3)))
        with count() as tally:
            A @ A.mT
        return tally

    assert leading_term(gram, [4, 6, 8, 10]) == (2, 6)


def test_a_log_log_slope_is_not_the_degree():
    """One percent of quadratic growth is in plain sight of the differences, and hidden from the slope."""

    def cost(n):
        return n * n + 100 * n

    slope = np.polyfit(np.log(SIZES), np.log([cost(n) for n in SIZES]), 1)[0]
    assert 1.1 < slope < 1.3
    assert degree(cost, SIZES) == 2


def test_a_step_with_one_quadratic_corner_is_caught():
    """A negative control: linear but for one product over all pairs of samples."""

    def step(n, quadratic):
        X, W = wrap(np.ones((n, 3))), wrap(np.ones((3, 500)))
        with count() as tally:
            X @ W
            if quadratic:
                X[:, :1] * xp_row(X)
        return tally

    def xp_row(X):
        return X[:, 0][None, :]

    sizes = [8, 12, 16, 20]
    assert degree(lambda n: step(n, False), sizes) == 1
    assert degree(lambda n: step(n, True), sizes) == 2


def test_n_log_n_is_told_from_its_neighbours():
    powers = [2**k for k in range(3, 8)]
    assert nlogn(lambda n: 5 * n * (n.bit_length() - 1), powers) == 5
    assert nlogn(lambda n: 5 * n * (n.bit_length() - 1) + 7 * n + 11, powers) == 5
    assert nlogn(lambda n: 7 * n + 11, powers) == 0
    assert nlogn(lambda n: n * n, powers) is None
    assert nlogn(lambda n: n * (n.bit_length() - 1) ** 2, powers) is None


def test_the_table_of_differences():
    assert difference_table(lambda n: n * n, [1, 2, 3, 4]) == [[1, 4, 9, 16], [3, 5, 7], [2, 2], [0]]


@pytest.mark.parametrize(
    ("f", "sizes", "words"),
    [
        (lambda n: min(n, 2), [1, 2, 3], "no polynomial of degree <= 1"),
        (lambda n: n**3, [1, 2, 3, 4], "no polynomial of degree <= 2; expected at least degree . 2 sizes"),
        (lambda n: n * (n.bit_length() - 1), SIZES, "no polynomial"),
        (lambda n: n, [1], "1 sizes are too few"),
        (lambda n: n, [], "0 sizes are too few"),
        (lambda n: n, [1, 2, 4], "expected equally spaced ascending integers"),
        (lambda n: n, [3, 2, 1], "expected equally spaced ascending integers"),
        (lambda n: n, [2, 2, 2], "expected equally spaced ascending integers"),
        (lambda n: n, [1.5, 2.5, 3.5], "expected integers"),
        (lambda n: float(n), [1, 2, 3], "the count at size 1 is 1.0; expected an exact int or Fraction"),
        (lambda n: n > 0, [1, 2, 3], "expected an exact int or Fraction"),
    ],
)
def test_what_cannot_be_answered_is_one_clear_error(f, sizes, words):
    with pytest.raises(ValueError, match=words):
        degree(f, sizes)


@pytest.mark.parametrize("sizes", [[2, 4, 8], [2, 4, 6, 8], [3, 6, 12, 24], [16, 8, 4, 2], [2.0, 4.5, 8.0, 16.0]])
def test_n_log_n_needs_consecutive_powers_of_two(sizes):
    with pytest.raises(ValueError, match="consecutive powers of two"):
        nlogn(lambda n: 1, sizes)
