"""Claims on Ginger: that what is wrong fails."""

import math
import time

import numpy as np
import pytest

from nearlin.complexity.claims import ginger
from nearlin.complexity.claims.table import FAILS, HOLDS
from nearlin.optim import Ginger
from tests.complexity.controls import controls

QUICK = [claim for claim in ginger.CLAIMS if claim.quick]
MEASURES = {claim.id: claim.measure for claim in ginger.CLAIMS}


def test_what_is_timed_is_not_quick_and_nothing_else_is():
    assert all((claim.how == "time") != claim.quick for claim in ginger.CLAIMS)


@pytest.mark.nightly
def test_quick_claims_are_quick():
    start = time.thread_time()
    for claim in QUICK:
        claim.measure(False)
    assert time.thread_time() - start < 16


def holding(extra):
    """Ginger that holds an array of (d, ``extra``) during an update; of (d, d) where ``extra`` is None."""

    class Holding(Ginger):
        def update(self, state, grads, h=None):
            kept = h[0][:, None] * h[0][None, :extra]
            made = super().update(state, grads, h)
            assert kept.shape
            return made

    return Holding


def changed(change, weight=1.0):
    """Ginger whose curvature is changed in every update, by vectors of another weight."""

    class Changed(Ginger):
        def update(self, state, grads, h=None):
            steps, state = super().update(state, grads, tuple(weight * one for one in h))
            blocks = tuple(block._replace(curvature=change(block.curvature)) for block in state.blocks)
            return steps, state._replace(blocks=blocks)

    return Changed


class Unscaled(Ginger):
    """h = n g for √n g."""

    def _vector(self, point, grads, key):
        return tuple(point.samples**0.5 * one for one in super()._vector(point, grads, key))


class Repeating(Ginger):
    """The same labels in every step."""

    def _vector(self, point, grads, key):
        return super()._vector(point, grads, 0)


inexact = changed(lambda S: S._replace(sigma=S.sigma.astype(np.float16).astype(np.float32)))
WRONG = {
    "an update quadratic in d": ("ginger-cost", holding(None)),
    "sixteen flops more an entry": ("ginger-cost", holding(16)),
    "a matrix of d x d in memory": ("ginger-memory", holding(None)),
    "sixteen numbers more an entry": ("ginger-memory", holding(16)),
    "a wrong weight": ("ginger-dense-average", changed(lambda S: S, 1.1)),
    "eigenvalues of three digits": ("ginger-float32", inexact),
    "rows that drift": ("ginger-orthonormality", changed(lambda S: S._replace(U=S.U * np.float32(1 + 1e-4)))),
    "a vector without its scale": ("ginger-curvature-vector", Unscaled),
    "labels that repeat": ("ginger-curvature-vector", Repeating),
}
SLOW = ("rows that drift", "a vector without its scale", "labels that repeat")


@pytest.mark.parametrize(("name", "optimizer"), controls(WRONG, slow=SLOW))
def test_what_is_wrong_fails(name, optimizer):
    assert MEASURES[name].given(opt=optimizer)(False).verdict == FAILS


@pytest.mark.parametrize(("power", "verdict"), [(1, HOLDS), (2, FAILS), (0.5, FAILS)])
def test_made_up_times_over_d(monkeypatch, power, verdict):
    monkeypatch.setattr(ginger, "on_its_way", lambda d, opt, dtype: (None, None, None))
    timer = lambda calls, rounds: {d: 1e-9 * float(d) ** power for d in calls}  # noqa: E731
    assert MEASURES["ginger-time-in-dimension"].given(timer=timer)(True).verdict == verdict


@pytest.mark.parametrize(("power", "verdict"), [(1.5, HOLDS), (2, HOLDS), (3, FAILS)])
def test_made_up_times_over_the_rank(power, verdict):
    timer = lambda calls, rounds: {rank: 1e-9 * math.pow(rank, power) for rank in calls}  # noqa: E731
    assert MEASURES["ginger-time-in-rank"].given(timer=timer, d=256)(True).verdict == verdict


def test_the_timed_updates_have_all_columns_in_use():
    calls = {}
    ginger.rank_sweep(True, timer=lambda made, rounds: calls.update(made) or {}, d=256)
    for rank, call in calls.items():
        _, state = call()
        U, sigma = ginger.curvature(state)
        assert U.shape == (rank, 256)
        assert sigma.min() > 0.9
