"""Claims on whole steps with pivoted columns: that they hold, and that what is wrong fails."""

from functools import partial

import pytest

from nearlin.complexity import claims as table
from nearlin.complexity.claims import pivoted_steps
from nearlin.complexity.claims.table import FAILS, HOLDS
from nearlin.linalg import PivotedCholesky
from nearlin.nn import FactorEntries
from nearlin.optim import NearLinearGaussNewton
from tests.complexity.controls import controls

CHECK = {claim.id: claim.measure for claim in pivoted_steps.CLAIMS}
SKETCH = NearLinearGaussNewton(preconditioner="sketch")
SMALL = {"pivoted-inputs": {"sizes": (512,)}}
LONG = ("pivoted-neurons", "pivoted-deep")


def test_the_table_holds_them():
    assert set(pivoted_steps.CLAIMS) <= set(table.CLAIMS)


@pytest.mark.parametrize(("name", "given"), controls({name: (name, SMALL.get(name, {})) for name in CHECK}, slow=LONG))
def test_they_hold(name, given):
    outcome = CHECK[name].given(**given)(False)
    assert outcome.verdict == HOLDS, f"{outcome.value}: {outcome.detail}"


def all_of_them(p, k):
    """J Jᵀ itself, which leaves one iteration however few the neurons are."""
    return PivotedCholesky(FactorEntries.of(p.jacobian()), 0).grow(len(p.batch[0]))


WRONG = {
    "a sketch is cubic": ("pivoted-step-linear", {"optimizer": partial(pivoted_steps.fixed, preconditioner="sketch")}),
    "a sketch is an array of n² entries": ("pivoted-step-memory", {"optimizer": SKETCH, "sizes": (512, 640, 768), "m": 128}),
    "a quarter of the columns": ("pivoted-inputs", {"make": lambda p, k: pivoted_steps.kernel(p, k // 4), "sizes": (512,)}),
    "all columns of the network itself": ("pivoted-neurons", {"make": all_of_them, "n": 128}),
    "the kernel's bound less what P adds": ("pivoted-condition-steps", {"bound": lambda P, smallest, rest: rest / P.shift}),
    "aged columns of tanh": ("pivoted-ageing", {"activation": "tanh", "make": pivoted_steps.present}),
    "aged rows of a deep network": ("pivoted-deep", {"every": 10}),
    "two sources": ("pivoted-sources", {"mix": pivoted_steps.mixed}),
}


@pytest.mark.parametrize(
    ("name", "given"), controls(WRONG, slow=("all columns of the network itself", "aged rows of a deep network", "two sources"))
)
def test_what_is_wrong_fails(name, given):
    assert CHECK[name].given(**given)(False).verdict == FAILS


def test_a_sketch_is_told_by_its_degree():
    outcome = CHECK["pivoted-step-linear"].given(**WRONG["a sketch is cubic"][1])(False)
    assert "in n: degree of flops in size is 3, expected 1" in outcome.detail
