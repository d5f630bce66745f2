"""Claims on DSGD and Newton-Schulz: that a wrong method fails."""

import numpy as np
import pytest

from nearlin.complexity.claims import dsgd
from nearlin.complexity.claims.table import FAILS
from nearlin.linalg import Orthogonalized, orthogonalize, spectral_bound
from nearlin.optim import DSGD

MEASURES = {claim.id: claim.measure for claim in dsgd.CLAIMS}


def reporting(factor):
    """DSGD that guarantees ``factor`` times what it is certain of."""

    class Reporting(DSGD):
        def step(self, *args, **kwargs):
            params, state, info = super().step(*args, **kwargs)
            return params, state, info._replace(guarantee=factor * (info.guarantee or 0.0))

    return Reporting


class Standing(DSGD):
    """Does not move."""

    def step(self, params, *args, **kwargs):
        _, state, info = super().step(params, *args, **kwargs)
        return params, state, info


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
    "one percent more than the guarantee": ("dsgd-guarantee", {"optimizer": reporting(1.01), "steps": 5}),
    "no step": ("dsgd-guarantee", {"optimizer": Standing, "steps": 2}),
    "half the guarantee": ("dsgd-tight", {"optimizer": reporting(0.5)}),
    "a step that is not taken": ("dsgd-tight", {"optimizer": Standing}),
    "a run that reaches no level": ("dsgd-stationarity", {"optimizer": Standing, "steps": 20}),
    "a gradient called a tenth larger": ("dsgd-stationarity", {"optimizer": reporting(1.1), "steps": 20}),
    "steps that are too long": ("dsgd-cross-entropy", {"optimizer": Leaping, "steps": 20}),
    "too much where labels disagree": ("dsgd-cross-entropy", {"optimizer": reporting(1.1), "steps": 2}),
    "a bound below the norm": ("newton-schulz-certificate", {"make": unbounded}),
    "no orthogonal matrix": ("newton-schulz-certificate", {"make": rough}),
    "singular values after all": ("newton-schulz-no-svd", {"orth": "svd"}),
    "half a bound": ("spectral-bound", {"bound": lambda G, method: 0.5 * spectral_bound(G, method)}),
    "the Frobenius norm": ("spectral-bound", {"bound": lambda G, method: float(np.linalg.norm(G))}),
}


@pytest.mark.parametrize(("name", "options"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_fails(name, options):
    assert MEASURES[name].given(**options)(False).verdict == FAILS


@pytest.mark.parametrize("name", dsgd.TIGHT)
def test_losses_of_the_claims_are_those_of_the_objective(name):
    objective, params, batch = dsgd.TIGHT[name][0]
    assert dsgd.loss_at(objective, params, batch) == pytest.approx(float(objective.at(params, batch).loss), rel=1e-14)
