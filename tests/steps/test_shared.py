"""What many steps share: hyper-parameters by name, and that a step is taken where it is finite."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from nearlin import steps
from nearlin._array import integer

HERE, THERE = (np.ones((2, 3)), np.zeros(4)), (np.full((2, 3), 2.0), np.ones(4))


def test_a_finite_step_goes_to_the_new_pair_and_tells_what_it_was_given():
    params, state, info = steps.taken_if_finite((HERE, "old"), (THERE, "new"), np.float32(0.5), refreshed=True, kept="a root")
    assert params is THERE
    assert state == "new"
    assert info == (0.5, True, "accepted", None, True, "a root", None)
    assert type(info.loss) is float


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["params", "beside"])
def test_a_step_that_is_not_finite_goes_nowhere(where, value):
    bad = (THERE[0], np.asarray([1.0, value, 0.0, 0.0]))
    new, beside = (bad, ()) if where == "params" else (THERE, bad)
    params, state, info = steps.taken_if_finite((HERE, "old"), (new, "new"), 0.5, beside=beside, kept="a root")
    assert params is HERE
    assert state == "old"
    assert info == (0.5, False, "rejected: the step is not finite", None, False, "", None)


@dataclass(frozen=True)
class Method:
    lr: float = 0.1
    decay: float = 0.5
    rank: int = 2

    def __post_init__(self):
        steps.settle_shared(self, rank=integer(1))


@dataclass(frozen=True)
class Counting:
    decay: int = 1

    def __post_init__(self):
        steps.settle_shared(self, decay=integer(1))


def test_fields_are_settled_by_their_shared_kinds_and_by_their_own():
    made = Method(np.float32(0.5), np.float64(0.25), np.int64(3))
    assert [(type(value), value) for value in vars(made).values()] == [(float, 0.5), (float, 0.25), (int, 3)]
    for wrong in ({"lr": -1.0}, {"decay": 1.0}, {"rank": 0}):
        (name,) = wrong
        with pytest.raises(ValueError, match=rf"^{name} is "):
            Method(**wrong)


def test_a_kind_of_its_own_comes_before_the_shared_one():
    assert Counting(3).decay == 3
    with pytest.raises(ValueError, match=r"^decay is 0\.5; expected an integer of at least 1"):
        Counting(0.5)
