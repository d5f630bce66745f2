"""Claims on preconditioners from a few columns: that they hold at small sizes, and that what is wrong fails."""

from dataclasses import replace

import numpy as np
import pytest

from nearlin._array import generator
from nearlin.complexity import claims as table
from nearlin.complexity.claims import pivoted
from nearlin.complexity.claims.table import FAILS, HOLDS
from nearlin.linalg import PivotedPreconditioner
from tests.complexity.controls import controls

CHECK = {claim.id: claim.measure for claim in pivoted.CLAIMS}
SMALL = {
    "pivoted-memory": {"sizes": (4096,)}, "pivoted-iterations": {"sizes": (512,), "m": 2048}, "pivoted-blocks": {"n": 512},
}  # fmt: skip


def test_the_table_holds_them():
    assert set(pivoted.CLAIMS) <= set(table.CLAIMS)


@pytest.mark.parametrize(
    ("name", "given"), controls({name: (name, SMALL.get(name, {})) for name in CHECK}, slow=("pivoted-blocks",))
)
def test_they_hold_at_small_sizes(name, given):
    outcome = CHECK[name].given(**given)(False)
    assert outcome.verdict == HOLDS, f"{outcome.value}: {outcome.detail}"


def twice(x, k, damping):
    pivoted.flat(x, k, damping)
    return pivoted.flat(x, k, damping)


def whole(x, k, damping):
    P = pivoted.flat(x, k, damping)
    return P.factor.F @ P.factor.F.mT


def a_tenth(x, k, damping):
    factor = pivoted.factored(x, k)
    return factor.preconditioner(damping, damping + 0.1 * factor.remainder.mean())


class Careless(PivotedPreconditioner):
    """Without what μ takes from the smallest eigenvalue."""

    def condition_bound(self, smallest=None, remainder=None):
        return super().condition_bound(smallest, remainder) / (1 + self.shift / smallest)


WRONG = {
    "everything twice": ("pivoted-build", {"make": twice}),
    "F Fᵀ formed": ("pivoted-memory", {"make": whole}),
    "an eighth of the columns": ("pivoted-iterations", {"make": lambda x, k, damping: pivoted.flat(x, k // 8, damping)}),
    "a tenth of what is left": ("pivoted-iterations", {"make": lambda x, k, damping: a_tenth(x, k // 4, damping)}),
    "half of the bound": ("pivoted-condition", {"make": lambda *given: Careless(**vars(pivoted.flat(*given)))}),
    "uniform columns": ("pivoted-unbalanced", {"make": pivoted.uniform}),
    "always blocks": ("pivoted-blocks", {"choose": pivoted.always_blocks}),
    "never blocks": ("pivoted-blocks", {"choose": lambda flat, groups: flat}),
}
SLOW = ("always blocks", "never blocks", "F Fᵀ formed", "everything twice", "a tenth of what is left")


@pytest.mark.parametrize(("name", "given"), controls(WRONG, slow=SLOW))
def test_what_is_wrong_fails(name, given):
    assert CHECK[name].given(**SMALL.get(name, {}), **given)(False).verdict == FAILS


def test_uniform_columns_are_preconditioned_as_the_pivots_are():
    """The same P for the same columns."""
    x, damping = pivoted.points("sphere", 60), 1e-3
    T = generator(0).choice(60, 10, replace=False)
    A = pivoted.data.limit_kernel(x)
    F = np.linalg.solve(np.linalg.cholesky(A[np.ix_(T, T)]), A[T]).T
    factor = replace(pivoted.factored(x, 10), F=F, gram=F.T @ F, remainder=np.diagonal(A - F @ F.T))
    r = np.arange(60.0)
    np.testing.assert_allclose(pivoted.uniform(x, 10, damping)(r), factor.preconditioner(damping)(r), rtol=1e-8)
