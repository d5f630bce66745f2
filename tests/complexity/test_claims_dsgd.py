"""Claims on DSGD and Newton-Schulz: their quick verdicts, and that a wrong method fails."""

import functools

import pytest

from nearlin.complexity.claims import dsgd
from nearlin.complexity.claims.table import FAILS, HOLDS
from nearlin.linalg import Orthogonalized, orthogonalize
from nearlin.optim import DSGD


@pytest.mark.parametrize("claim", dsgd.CLAIMS, ids=lambda claim: claim.id)
def test_quick_verdicts(claim):
    outcome = claim.measure(False)
    assert outcome.verdict == HOLDS, f"{outcome.value}: {outcome.detail}"
    assert outcome.series
    for series in outcome.series:
        assert len(series.x) == len(series.y) == len(series.predicted or series.y)


class Boastful(DSGD):
    """Guarantees four times what is certain."""

    def step(self, *args, **kwargs):
        params, state, info = super().step(*args, **kwargs)
        return params, state, info._replace(guarantee=4 * info.guarantee)


class Standing(DSGD):
    """Does not move."""

    def step(self, params, *args, **kwargs):
        _, state, info = super().step(params, *args, **kwargs)
        return params, state, info._replace(decrease=0.0)


class Leaping(DSGD):
    """Takes steps that are fifty times too long."""

    def _checked_rate(self, lr):
        return 50 * lr


def unbounded(G, steps, polish):
    """A bound below the norm."""
    found = orthogonalize(G, steps, polish)
    return Orthogonalized(found.matrix, found.alignment, 0.6)


def rough(G, steps, polish):
    """The normalised matrix itself: the bound holds, and little of the decrease is left."""
    return orthogonalize(G, 0, 0)


WRONG = {
    "four times the guarantee": functools.partial(dsgd.guarantee, optimizer=Boastful, steps=10),
    "no step": functools.partial(dsgd.guarantee, optimizer=Standing, steps=2),
    "steps that are too long": functools.partial(dsgd.cross_entropy_descends, optimizer=Leaping, steps=20),
    "a bound below the norm": functools.partial(dsgd.certificate, make=unbounded),
    "no orthogonal matrix": functools.partial(dsgd.certificate, make=rough),
    "singular values after all": functools.partial(dsgd.no_svd, orth="svd"),
}


@pytest.mark.parametrize("measure", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_fails(measure):
    assert measure(False).verdict == FAILS


def test_a_twentieth_of_the_bound_is_not_enough():
    outcome = dsgd.stationarity(False, share=0.05)
    assert outcome.verdict == FAILS
    assert "steps, bound" in outcome.detail


def test_a_run_that_reaches_no_level_fails():
    outcome = dsgd.stationarity(False, Standing)
    assert (outcome.verdict, outcome.value) == (FAILS, "no level was reached")
