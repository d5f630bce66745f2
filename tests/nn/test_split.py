"""Arrays whose rows are split over ranks, beside the same of whole ones."""

import numpy as np
import pytest

import nearlin as nl
from nearlin._array import namespace

WHOLE = np.random.default_rng(0).standard_normal((24, 3))
WHOLE[20, 1] = 9.0  # on the last rank


def split(ranks, unit=8, whole=WHOLE):
    return nl.nn.Split(whole[ranks.share(24, unit)], 24, ranks, unit)


def on_ranks(f):
    """f(array) of three ranks, and of the whole."""
    return nl.together(3, lambda ranks: f(split(ranks))), f(WHOLE)


def test_sums_and_extremes_are_those_of_the_whole():
    for f in (
        lambda a: float(namespace(a).sum(a)),
        lambda a: float(namespace(a).max(a)),
        lambda a: bool(namespace(a).all(a < 5)),
    ):
        made, wanted = on_ranks(f)
        assert made == pytest.approx([wanted] * 3, rel=1e-14)
    made, _ = on_ranks(lambda a: bool(namespace(a).all(a < 10)))
    assert made == [True] * 3


@pytest.mark.parametrize(
    "f", [lambda a: 2 - a, lambda a: a / 3, lambda a: 1 / a, lambda a: -a, abs, lambda a: a**2, lambda a: a > 0]
)
def test_what_works_entry_by_entry_does_so(f):
    made = nl.together(3, lambda ranks: f(split(ranks)).whole())
    assert all(np.array_equal(a, f(WHOLE)) for a in made)


def test_arrays_that_are_split_otherwise_are_refused():
    def add(ranks):
        with pytest.raises(ValueError, match=r"split arrays of shapes \(24, 3\) and \(24, 3\); expected arrays split alike"):
            split(ranks) + split(ranks, unit=1)
        with pytest.raises(ValueError, match="expected arrays split alike"):
            split(ranks) + split(nl.Alone())

    nl.together(3, add)


@pytest.mark.parametrize("f", [lambda a: a @ a, lambda a: a[0], np.asarray, lambda a: namespace(a).matmul(a, a)])
def test_what_needs_rows_of_other_ranks_is_refused(f):
    with pytest.raises((TypeError, AttributeError), match="needs rows that lie on other ranks"):
        nl.together(2, lambda ranks: f(split(ranks)))
