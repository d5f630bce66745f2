"""Claims on Ginger: their quick verdicts, and that what is wrong fails."""

import functools
import math
import time

import numpy as np
import pytest

from nearlin.complexity.claims import ginger
from nearlin.complexity.claims.table import FAILS, HOLDS
from nearlin.linalg import lowrank_update
from nearlin.optim import Ginger

QUICK = [claim for claim in ginger.CLAIMS if claim.quick]


@pytest.mark.parametrize("claim", QUICK, ids=lambda claim: claim.id)
def test_quick_verdicts(claim):
    outcome = claim.measure(False)
    assert outcome.verdict == HOLDS, f"{outcome.value}: {outcome.detail}"
    assert outcome.series
    assert all(len(series.x) == len(series.y) for series in outcome.series)


def test_what_is_timed_is_not_quick_and_nothing_else_is():
    assert all((claim.how == "time") != claim.quick for claim in ginger.CLAIMS)


def test_quick_claims_are_quick():
    start = time.thread_time()
    for claim in QUICK:
        claim.measure(False)
    assert time.thread_time() - start < 5


def quadratic_update(opt, state, g, h):
    """An update that also forms h hᵀ."""
    h[0][:, None] * h[0][None, :]
    return opt.update(state, g, h)


def twice(S, h, decay):
    """The vector counted twice."""
    return lowrank_update(S, h, decay, 2 * (1 - decay))


def inexact(S, h, decay):
    """σ with three digits."""
    made = lowrank_update(S, h, decay).curvature
    return made._replace(sigma=made.sigma.astype(np.float16).astype(np.float32))


def skew(S, h, decay):
    """Rows that drift."""
    made = lowrank_update(S, h, decay)
    return made._replace(curvature=made.curvature._replace(U=made.curvature.U * np.float32(1 + 1e-4)))


class Hoarder(Ginger):
    """An update that holds a matrix of d x d."""

    def update(self, state, grads, h=None):
        kept = h[0][:, None] * h[0][None, :]
        made = super().update(state, grads, h)
        assert kept.shape
        return made


WRONG = {
    "an update quadratic in d": functools.partial(ginger.cost, update=quadratic_update),
    "a matrix of d x d in memory": functools.partial(ginger.memory, opt=Hoarder),
    "a wrong weight": functools.partial(ginger.dense_average, update=twice),
    "eigenvalues of three digits": functools.partial(ginger.float32, update=inexact),
    "rows that drift": functools.partial(ginger.orthonormality, update=skew),
    "a vector without its scale": functools.partial(ginger.curvature_vector, scale=lambda n: n),
}


@pytest.mark.parametrize("measure", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_fails(measure):
    assert measure(False).verdict == FAILS


@pytest.mark.parametrize(("power", "verdict"), [(1, HOLDS), (2, FAILS), (0.5, FAILS)])
def test_made_up_times_over_d(monkeypatch, power, verdict):
    monkeypatch.setattr(ginger, "_on_its_way", lambda d, rank, like: (Ginger(), (None, None, None)))
    timer = lambda calls, rounds: {d: 1e-9 * float(d) ** power for d in calls}  # noqa: E731
    assert ginger.time_in_dimension(True, timer=timer).verdict == verdict


@pytest.mark.parametrize(("power", "verdict"), [(1.5, HOLDS), (2, HOLDS), (3, FAILS)])
def test_made_up_times_over_the_rank(monkeypatch, power, verdict):
    monkeypatch.setattr(np.linalg, "qr", lambda a: (a, None))
    timer = lambda calls, rounds: {rank: 1e-9 * math.pow(rank, power) for rank in calls}  # noqa: E731
    assert ginger.time_in_rank(True, timer=timer).verdict == verdict
