"""Claims on the two-layer network by neurons: that they hold, and that what is wrong fails."""

from dataclasses import fields, replace

import pytest

from nearlin.complexity import claims as table
from nearlin.complexity.claims import ranks as family
from nearlin.complexity.claims.table import FAILS, HOLDS
from nearlin.nn import SplitTwoLayer, by_neurons
from tests.complexity.controls import controls

CHECK = {claim.id: claim.measure for claim in family.CLAIMS}


def test_the_table_holds_them():
    assert set(family.CLAIMS) <= set(table.CLAIMS)


@pytest.mark.parametrize("name", CHECK)
def test_they_hold(name):
    outcome = CHECK[name](False)
    assert outcome.verdict == HOLDS, f"{outcome.value}: {outcome.detail}"


class Twice:
    """Ranks that make every sum twice."""

    def __init__(self, ranks):
        self._ranks = ranks

    def __getattr__(self, name):
        return getattr(self._ranks, name)

    def sum(self, x, what):
        """The sum, and half of it of all ranks again."""
        return self._ranks.sum(self._ranks.sum(x, what) / self._ranks.size, what)


class OwnDraws(SplitTwoLayer):
    """Weights by keys of the ranks' own."""

    def _drawn(self, key, *args):
        return super()._drawn(key + self.ranks.rank, *args)


class OwnWork(SplitTwoLayer):
    """Plans by the walks of a rank alone."""

    def forward(self, params, x):
        """With a layer of fewer blocks for the planner."""
        outputs, tape = super().forward(params, x)
        blocks, width = tape.jacobian.walk
        return outputs, tape._replace(jacobian=replace(tape.jacobian, walk=(100 * blocks * self.ranks.size, width)))


def through(network):
    """By neurons, with another network class."""

    def split(objective, ranks):
        made = by_neurons(objective, ranks)
        return replace(made, network=network(**{one.name: getattr(made.network, one.name) for one in fields(made.network)}))

    return split


WRONG = {
    "sums are made twice": ("ranks-bytes", lambda objective, ranks: by_neurons(objective, Twice(ranks))),
    "nothing is summed": ("ranks-bytes", lambda objective, ranks: objective),
    "draws by rank": ("ranks-iterates", through(OwnDraws)),
    "plans by what a rank walks": ("ranks-plan", through(OwnWork)),
    "every rank holds all": ("ranks-memory", lambda objective, ranks: objective),
}


@pytest.mark.parametrize(("name", "split"), controls(WRONG))
def test_what_is_wrong_fails(name, split):
    assert CHECK[name].given(split=split)(False).verdict == FAILS
